"""Filter groups: layers that lose filters together, and the filters that go at a rate."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from shapeshift.errors import ConfigError
from shapeshift.prune.channels import ChannelSet, Place
from shapeshift.prune.feature_ranks import known_layers
from shapeshift.prune.filters import lowest
from shapeshift.prune.layers import OUT

Rate = float | Mapping[str, float] | Sequence[float]


@dataclass(frozen=True)
class FilterGroup:
    """Layers whose filters are tied to each other, such as those of one residual stream; often a single layer.

    Attributes:
        layers: Their dotted paths, in the order in which they run.
        sets: The filters, each with all the channels that go with it.
    """

    layers: tuple[str, ...]
    sets: tuple[ChannelSet, ...]

    def scores(self, ranks: Mapping[str, Tensor]) -> Tensor:
        """Return the mean rank of each filter, over all channels of the layers that go with it; float64."""
        return torch.stack(
            [
                torch.cat(
                    [ranks[layer][channels.members.get((layer, OUT), [])].double() for layer in self.layers]
                ).mean()
                for channels in self.sets
            ]
        )

    def dropped(self, ranks: Mapping[str, Tensor], rate: float) -> list[ChannelSet]:
        """Return the filters that go at a rate."""
        return [self.sets[index] for index in lowest(self.scores(ranks), rate).tolist()]


@dataclass(frozen=True)
class Filters:
    """All filters of a model that can be removed.

    Attributes:
        groups: The layers that lose filters together, in the order in which they run.
        layers: The layers of all groups, in the order in which they run.
        obstacles: The reasons why the other layers stay whole.
    """

    groups: tuple[FilterGroup, ...]
    layers: tuple[str, ...]
    obstacles: dict[str, str]

    def rates(self, rate: Rate) -> list[float]:
        """Return the rate of each group: the mean of the rates given for its layers, or 0 if none is given.

        Args:
            rate: The rates in any of the forms that :func:`shapeshift.prune.hrank` takes.

        Raises:
            ConfigError: If a rate lies outside of [0, 1) or names a layer that cannot be pruned, or if a list has
                another length.
        """
        by_layer = self._by_layer(rate)
        for layer, value in by_layer.items():
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < 1:
                where = "" if isinstance(rate, Real) else f" of {layer}"
                raise ConfigError(f"rate{where}: the share of filters to remove lies in [0, 1), not {value!r}")
        rates = []
        for group in self.groups:
            given = [float(by_layer[layer]) for layer in group.layers if layer in by_layer]
            rates.append(0.0 if not given else given[0] if len(set(given)) == 1 else statistics.fmean(given))
        return rates

    def _by_layer(self, rate: Rate) -> Mapping[str, float]:
        if isinstance(rate, Mapping):
            for layer in rate:
                if layer in self.obstacles:
                    raise ConfigError(f"rate: {layer} has to stay whole, since its filters {self.obstacles[layer]}")
            return {layer: rate[layer] for layer in known_layers(rate, self.layers, "rate")}
        if isinstance(rate, Sequence) and not isinstance(rate, str):
            if len(rate) != len(self.layers):
                raise ConfigError(
                    f"rate: the list has {len(rate)} entries, and {len(self.layers)} layers can be pruned: "
                    f"{', '.join(self.layers)}"
                )
            return dict(zip(self.layers, rate, strict=True))
        return dict.fromkeys(self.layers, rate)  # type: ignore[arg-type]


def find_filters(sets: Iterable[ChannelSet], layers: Sequence[str]) -> Filters:
    """Group the filters whose channels are at the same places.

    Args:
        sets: The sets of channels that have to be removed together.
        layers: The layers whose filters have ranks, in the order in which they run.
    """
    position = {layer: index for index, layer in enumerate(layers)}
    by_places: dict[frozenset[Place], list[ChannelSet]] = defaultdict(list)
    obstacles = dict.fromkeys(layers, "belong to a class of layer that cannot be made smaller")
    # A set without an obstacle that holds an output channel of a ranked layer is a filter. Sets at the same places form
    # a group, such as those of one residual stream.
    for found in sets:
        ranked = [path for path, side in found.members if side == OUT and path in position]
        if found.obstacle is not None:
            obstacles |= dict.fromkeys(ranked, found.obstacle)
        elif ranked:
            by_places[frozenset(found.members)].append(found)
    groups = []
    for places, own in by_places.items():
        members = tuple(
            sorted((path for path, side in places if side == OUT and path in position), key=position.__getitem__)
        )
        # Of equal scores, the first one is dropped: sort filters by their channels in the layer that runs first.
        own.sort(key=lambda found: min(found.members[members[0], OUT]))
        groups.append(FilterGroup(members, tuple(own)))
    groups.sort(key=lambda group: position[group.layers[0]])
    free = {layer for group in groups for layer in group.layers}
    whole = {layer: reason for layer, reason in obstacles.items() if layer not in free}
    return Filters(tuple(groups), tuple(layer for layer in layers if layer in free), whole)


def breakpoints(groups: Iterable[FilterGroup]) -> list[float]:
    """List the rates at which one more filter of a group is dropped, in ascending order from 0."""
    found = set()
    for size in {len(group.sets) for group in groups}:
        for count in range(size):
            rate = count / size
            found.add(rate if int(rate * size) == count else math.nextafter(rate, 1))
    return sorted(found | {0.0})
