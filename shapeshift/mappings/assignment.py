"""Mappings that name the group of each layer, made by hand or learned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from shapeshift.errors import ConfigError
from shapeshift.mappings.base import MAPPINGS, MappingOptions
from shapeshift.names import match_names
from shapeshift.text_table import text_table
from shapeshift.weights import Weight


class Assignment(Mapping[str, str]):
    """An immutable dict from layers to the names of their groups, for ``compress(model, budget, mapping=...)``.

    Args:
        groups: The name of the group of each layer. A layer is the dotted path of a parameter or module, or a shell
            pattern over such paths. The first entry that fits a weight counts, so ``"*"`` comes last.

    Raises:
        ConfigError: If a layer or a group is not a string, or a group's name is empty.

    Example:
        >>> import shapeshift, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
        >>> mapping = shapeshift.Assignment({"0": "first", "*": "rest"})
        >>> sorted(shapeshift.compress(model, "50%", mapping=mapping).shapeshift)
        ['first', 'rest']
        >>> print(mapping)
        group      layer
        first (1)  0
        rest (1)   *
    """

    #: Its name in the error about a file that holds something else.
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
        # The first entry that fits counts, so mappings of different order differ.
        return list(self.items()) == list(other.items()) if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._groups.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._groups!r})"

    def __str__(self) -> str:
        return self._table([], lambda layer: [])

    def by_group(self) -> dict[str, list[str]]:
        """Return the layers of each group.

        Returns:
            A list of layers for each group, with the groups in the order of their first layers.
        """
        layers: dict[str, list[str]] = {}
        for layer, group in self.items():
            layers.setdefault(group, []).append(layer)
        return layers

    def _table(self, header: Sequence[str], cells: Callable[[str], Sequence[str]]) -> str:
        """Return a table with a row for each layer, which ends with the given cells of the layer."""
        rows = [
            (f"{group} ({len(layers)})" if layer == layers[0] else "", layer, *cells(layer))
            for group, layers in self.by_group().items()
            for layer in layers
        ]
        return text_table(["group", "layer", *header], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping and the measurements that it was learned from as a dict that JSON can hold."""
        return dict(self._groups)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild a mapping from :meth:`to_dict`."""
        return cls(fields)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mapping and the measurements that it was learned from as JSON.

        Args:
            path: The file to write.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a mapping that :meth:`save` wrote.

        Args:
            path: The file to read.

        Returns:
            The mapping, equal to the one that was saved.

        Raises:
            ConfigError: If the file holds something else.
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
    """Return the group of each weight, for every form of a mapping that a user can give.

    Args:
        mapping: A name in ``MAPPINGS``, a dict as :class:`Assignment` describes it, a sequence of one group per weight,
            or a function from a weight's dotted path to its group.
        weights: The weights to map.
        options: The options of a named mapping.

    Raises:
        ConfigError: If the mapping leaves a weight out, names a layer that does not exist, or gives too many groups.
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
        fitting = {first[name] for name in match_names(pattern, list(first), "mapping", "weight that is generated")}
        for name in fitting:
            found.setdefault(name, group)
        if all(found[name] != group for name in fitting):
            raise ConfigError(
                f"mapping: {pattern!r} has no effect, since each of its weights fits an earlier entry, such as "
                f"{min(fitting)} in the group {found[min(fitting)]!r}. The first entry that fits counts: put "
                f"{pattern!r} in front"
            )
    names = [weight.name for weight in weights]
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigError(
            f"mapping says nothing about {', '.join(missing)}; name {'it' if len(missing) == 1 else 'them'}, "
            'or put a last entry "*" for all others'
        )
    return [found[name] for name in names]
