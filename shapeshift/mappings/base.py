"""What a mapping is."""

from collections.abc import Callable, Sequence

from shapeshift.registry import Registry
from shapeshift.weights import Weight

Mapping = Callable[[Sequence[Weight]], Sequence[str]]
MAPPINGS: Registry[Mapping] = Registry("mapping")
