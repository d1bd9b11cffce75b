"""What a mapping is."""

from collections.abc import Callable, Sequence
from typing import Protocol

from shapeshift.names import Registry
from shapeshift.weights import Weight


class MappingOptions(Protocol):
    """What a mapping reads of a :class:`shapeshift.Config`."""

    @property
    def num_groups(self) -> int: ...

    @property
    def seed(self) -> int | None: ...


Mapping = Callable[[Sequence[Weight], MappingOptions], Sequence[str]]
MAPPINGS: Registry[Mapping] = Registry("mapping")
