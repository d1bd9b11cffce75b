"""A mapping by hand, or one that was learned: which layer belongs to which group."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from shapeshift.errors import ConfigError
from shapeshift.mappings.base import MAPPINGS, MappingOptions
from shapeshift.names import match_names
from shapeshift.weights import Weight


class Assignment(Mapping[str, str]):
    """An immutable dict from layer to group.

    Args:
        groups: from the name of a parameter or module, or a shell pattern over either, to the name of its group.
            Where several fit, the first one counts.

    Raises:
        ConfigError: if a name is not a string.
    """

    #: What it is called where a file holds something else.
    kind: ClassVar[str] = "a mapping from layers to groups"

    def __init__(self, groups: Mapping[str, str]) -> None:
        for layer, group in groups.items():
            if not isinstance(layer, str) or not isinstance(group, str) or not group:
                raise ConfigError(
                    f"a mapping leads from names of layers to names of groups, not {layer!r} to {group!r}"
                )
        self._groups = dict(groups)

    def __getitem__(self, layer: str) -> str:
        return self._groups[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __eq__(self, other: object) -> bool:
        # The first that fits counts, so the order is part of it.
        return list(self.items()) == list(other.items()) if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._groups.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._groups!r})"

    def __str__(self) -> str:
        members: dict[str, list[str]] = {}
        for layer, group in self._groups.items():
            members.setdefault(group, []).append(layer)
        return "\n".join(
            f"{group} ({len(layers)})\n" + "\n".join(f"  {layer}" for layer in layers)
            for group, layers in sorted(members.items())
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping, and what it was learned from, as a dict that JSON can hold."""
        return dict(self._groups)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild a mapping from :meth:`to_dict`."""
        return cls(fields)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mapping, and what it was learned from, as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a mapping from :meth:`save`.

        Raises:
            ConfigError: if the file holds something else.
        """
        try:
            fields = json.loads(Path(path).read_text())
            if not isinstance(fields, dict):
                raise TypeError(f"it is a {type(fields).__name__}")
            return cls.from_dict(fields)
        except KeyError as error:
            raise ConfigError(f"{path} does not hold {cls.kind}: it has no entry {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} does not hold {cls.kind}: {error}") from error


def assign(
    mapping: str | Mapping[str, str] | Sequence[str] | Callable[[str], str],
    weights: Sequence[Weight],
    options: MappingOptions,
) -> list[str]:
    """Return the group of each weight, whichever way the user chose to say it.

    Args:
        mapping: a name in ``MAPPINGS``, a dict as :class:`Assignment` describes it, one group per weight, or a
            function from a weight's dotted name to its group.
        weights: what is mapped.
        options: what a named mapping reads.

    Raises:
        ConfigError: if the mapping leaves a weight out, names a layer that is not there, or gives too many groups.
    """
    if isinstance(mapping, Mapping):
        return _look_up(mapping, weights)
    if isinstance(mapping, str):
        labels = list(MAPPINGS[mapping](weights, options))
    elif callable(mapping):
        labels = [mapping(weight.name) for weight in weights]
    else:
        labels = list(mapping)
    if len(labels) != len(weights):
        names = ", ".join(weight.name for weight in weights)
        raise ConfigError(f"mapping gave {len(labels)} groups for {len(weights)} weights, which are: {names}")
    missing = [weight.name for weight, label in zip(weights, labels, strict=True) if label is None]
    if missing:
        raise ConfigError(f"mapping gave no group for {', '.join(missing)}; exclude what is to stay as it is")
    return [str(label) for label in labels]


def _look_up(mapping: Mapping[str, str], weights: Sequence[Weight]) -> list[str]:
    # A tied weight has several names.
    first = {name: weight.name for weight in weights for name in weight.names}
    found: dict[str, str] = {}
    for pattern, group in mapping.items():
        for name in match_names(pattern, list(first), "mapping", "weight that is generated"):
            found.setdefault(first[name], group)
    names = [weight.name for weight in weights]
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigError(
            f"mapping says nothing about {', '.join(missing)}; name {'it' if len(missing) == 1 else 'them'}, "
            'or put a last entry "*" for all others'
        )
    return [found[name] for name in names]
