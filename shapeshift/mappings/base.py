"""The type of a mapping, and the registry of named mappings."""

from collections.abc import Callable, Sequence
from typing import Protocol

from shapeshift.names import Registry
from shapeshift.weights import Weight


class MappingOptions(Protocol):
    """The fields of a :class:`shapeshift.Config` that a mapping can read."""

    @property
    def num_groups(self) -> int: ...

    @property
    def seed(self) -> int | None: ...


Mapping = Callable[[Sequence[Weight], MappingOptions], Sequence[str]]
MAPPINGS: Registry[Mapping] = Registry("mapping")
