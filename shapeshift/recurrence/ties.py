"""Tying layers of a group whose coefficients have become nearly equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shapeshift.config import Config
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import TemplateLayout
from shapeshift.generators.mixing.product import mix
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.recurrence.similarity import layer_similarity


@dataclass(frozen=True)
class Ties:
    """The layers of one group that were tied.

    Attributes:
        group: The name of the group.
        layers: The names of the group's weights, in one tuple for each set of tied weights. The weights of a set are
            equal up to a constant factor.
        templates: The number of templates that the layers mixed.
        rolled_back: Whether each set has a plain weight of its own now, in place of the templates.
        before: The number of the group's trainable parameters before.
        after: The number of the group's trainable parameters now.
        change: The largest distance between a weight before and after, relative to the norm before.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import fold, soft_share
        >>> ties = fold(soft_share(WideResNet(22, 0.5), templates=1)).groups[0]
        >>> len(ties.layers), ties.layers[0][:3]
        (1, ('blocks.1.conv1.weight', 'blocks.1.conv2.weight', 'blocks.2.conv1.weight'))
    """

    group: str
    layers: tuple[tuple[str, ...], ...]
    templates: int
    rolled_back: bool
    before: int
    after: int
    change: float


def nearly_equal(rows: Tensor, threshold: float) -> list[list[int]]:
    """Cluster layers by complete linkage, so that any two layers of a set are similar.

    Args:
        rows: The coefficients, of shape (L, K).
        threshold: The smallest similarity of any two layers of a set.

    Returns:
        The indices of each set's layers. Indices are sorted, and sets are sorted by their first index.
    """
    sets = {layer: [layer] for layer in range(len(rows))}
    close = layer_similarity(rows).fill_diagonal_(-1)
    while close.max() >= threshold:
        kept, merged = sorted(divmod(int(close.argmax()), len(rows)))
        sets[kept] += sets.pop(merged)
        close[kept] = close[:, kept] = torch.minimum(close[kept], close[merged])
        close[merged] = close[:, merged] = close[kept, kept] = -1
    return sorted(sorted(members) for members in sets.values())


@torch.no_grad()
def tie(
    name: str, group: WeightedAverage, rows: Tensor, sets: Sequence[Sequence[int]], config: Config
) -> tuple[WeightedAverage, Ties]:
    """Build the group in which each set of layers has one row of coefficients, and each layer a gain of its own.

    A row is replaced by its projection on the mean direction of its set. The gain holds its length and its sign. If
    there are fewer sets than templates, one plain weight for each set takes fewer parameters and is as expressive.

    Args:
        name: The name of the group.
        group: The group. It is not changed.
        rows: The coefficients times the gains of each layer, of shape (L, K).
        sets: The indices of the layers that are tied.
        config: The config that the group was built with.

    Returns:
        The new group, or the old one if no layers are tied, and the record of the ties.
    """
    templates, (combination, *_) = rows.shape[1], group.layout.combinations
    directions = torch.stack([_mean_direction(rows[list(members)]) for members in sets])
    place = {index: number for number, members in enumerate(sets) for index in members}
    gains = torch.stack([rows[index] @ directions[place[index]] for index in range(len(rows))])
    store = torch.cat([piece.view(-1) for piece in group.store])

    rolled_back = len(sets) < templates
    if rolled_back:
        size = combination.size
        single = tuple(Combination(place[index] * size, 1, size, size, index) for index in range(len(rows)))
        layout = TemplateLayout(len(sets) * size, single, 0)
        mixed = [dataclasses.replace(combination, start=number * templates) for number in range(len(sets))]
        store = torch.cat(list(mix(list(group.store), directions.flatten(), list(map(Assembly.of, mixed)))))
    else:
        # A single template has gains only, and no coefficients.
        first = tuple(sets[place[index]][0] for index in range(len(rows))) if templates > 1 else ()
        own = directions.numel() if templates > 1 else 0
        layout = TemplateLayout(len(store), group.layout.combinations, own, first)
    if len(sets) == len(rows) and not rolled_back:
        layout, tied = group.layout, group
    else:
        tied = _build(group, layout, config, store, directions, gains)

    moved = [
        (old - new).norm() / old.norm().clamp_min(torch.finfo(old.dtype).tiny)
        for old, new in zip(group.generate(range(len(rows))), tied.generate(range(len(rows))), strict=True)
    ]
    names = tuple(tuple(name for index in members for name in group.weights[index].names) for members in sets)
    change = torch.stack(moved).max().item()
    return tied, Ties(name, names, templates, rolled_back, group.layout.num_parameters, layout.num_parameters, change)


def _build(
    group: WeightedAverage, layout: TemplateLayout, config: Config, store: Tensor, directions: Tensor, gains: Tensor
) -> WeightedAverage:
    """Build a group with another layout, on the device and with the dtype of the given one."""
    weights = [dataclasses.replace(weight, dtype=store.dtype, device=store.device) for weight in group.weights]
    tied = WeightedAverage(weights, layout, config)
    for piece, part in zip(tied.store, store.split([len(piece) for piece in tied.store]), strict=True):
        piece.copy_(part.view_as(piece))
        piece.requires_grad_(group.store[0].requires_grad)
    if tied.coefficients is not None and group.coefficients is not None:
        tied.coefficients.copy_(directions.flatten())
        tied.coefficients.requires_grad_(group.coefficients.requires_grad)
    for combination, gain in zip(layout.combinations, gains, strict=True):
        tied.gains[combination.row] = gain
    return tied


def _mean_direction(rows: Tensor) -> Tensor:
    """Return the mean direction of rows that are nearly parallel, as a unit vector with the sign of the first row."""
    units = F.normalize(rows, dim=1)
    signs = torch.where(units @ units[0] < 0, -1.0, 1.0).to(rows)
    return F.normalize((signs[:, None] * units).sum(0), dim=0)
