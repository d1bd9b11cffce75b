"""Coefficients that layers have in common, until they pull apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.disjoint_sets import DisjointSets
from shapeshift.errors import ConfigError
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.superweights import SuperWeights
from shapeshift.names import match_names
from shapeshift.running.labels import cross_entropy
from shapeshift.superweights.weight_gradients import SAMPLES, Loss, cosine, weight_gradients
from shapeshift.surgery.roots import require_shared


def share_coefficients(model: nn.Module, layers: Sequence[Sequence[str]] | None = None) -> int:
    """Let layers mix the SuperWeights that they both have with the same coefficients.

    It is meant for the beginning of a training; :func:`unshare_coefficients` separates those that conflict. What was
    tied before no longer is. All coefficients remain parameters, within the budget, so that an optimizer keeps track of
    them; the values of those that are tied to others are not used.

    Args:
        model: compressed with ``combine="superweights"``; it is changed in place.
        layers: sets of names or patterns of layers; None for one set of all layers of each parameter group.

    Returns:
        The number of coefficients that are in use.

    Raises:
        ConfigError: if the model's weights are no SuperWeights, a pattern matches nothing, or two sets share a layer.
        ModelError: if the model is not compressed.
    """
    groups = _groups(model)
    names = [weight.name for group in groups for weight in group.weights]
    sets: dict[str, int] = {}
    for number, patterns in enumerate([["*"]] if layers is None else layers):
        for name in set().union(*(match_names(pattern, names, "layers") for pattern in patterns)):
            if sets.setdefault(name, number) != number:
                raise ConfigError(f"layers: {name} is in two sets; put all layers that are to be tied into one")
    for group in groups:
        group.coefficient_index.copy_(torch.arange(len(group.coefficient_index)))
        for rows in _rows(group):
            first: dict[int, int] = {}
            for index, combination in rows.items():
                name = group.weights[index].name
                if name in sets:
                    _tie(group, combination, first.setdefault(sets[name], combination.start))
    return _count(groups)


def unshare_coefficients(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss = cross_entropy,
    samples: int = SAMPLES,
    threshold: float = 0.9,
) -> int:
    """Separate the coefficients of layers that would change them in different directions.

    For each layer the gradient of the loss with respect to its coefficients is measured as if they were its own. Those
    that are tied stay so if they are joined by a chain of pairs whose gradients have a cosine above the threshold;
    others go on from the present values by themselves. No parameter is made or replaced: an optimizer goes on.

    Args:
        model: a compressed model after :func:`share_coefficients`; it is changed in place.
        data: batches, read until there were enough samples.
        loss: as in :func:`shapeshift.learn_mapping`.
        samples: how many samples at least.
        threshold: the cosine.

    Returns:
        The number of coefficients that are in use.

    Raises:
        ConfigError: if the model's weights are no SuperWeights.
        DataError: if the data holds fewer samples.
        ModelError: if the model is not compressed, or a gradient is not finite.
    """
    groups = _groups(model)
    found = weight_gradients(model, data, loss, samples).mean
    for group in groups:
        gradients = {index: found[weight.name] for index, weight in enumerate(group.weights)}
        each = group.coefficient_gradients({index: grad.to(group.gains) for index, grad in gradients.items()})
        for rows in _rows(group):
            tied: dict[int, list[Combination]] = defaultdict(list)
            for combination in rows.values():
                tied[int(group.coefficient_index[combination.start])].append(combination)
            for source, combinations in tied.items():
                _separate(
                    group, source, combinations, [each[combination.row] for combination in combinations], threshold
                )
    return _count(groups)


def _separate(
    group: SuperWeights, source: int, combinations: Sequence[Combination], gradients: Sequence[Tensor], threshold: float
) -> None:
    """Split tied combinations into sets that agree; all sets but that of the source get values of their own."""
    disjoint = DisjointSets()
    for index, gradient in enumerate(gradients):
        for other in range(index):
            if cosine(gradient, gradients[other]) > threshold:
                disjoint.union(other, index)
    sets: dict[int, list[Combination]] = defaultdict(list)
    for index, combination in enumerate(combinations):
        sets[disjoint.find(index)].append(combination)
    assert group.coefficients is not None
    values = group.coefficients.detach()
    for found in sets.values():
        if all(combination.start != source for combination in found):
            first = found[0]
            values[first.row] = values[source : source + first.count]
            for combination in found:
                _tie(group, combination, first.start)


def _tie(group: SuperWeights, combination: Combination, source: int) -> None:
    group.coefficient_index[combination.row] = torch.arange(source, source + combination.count)


def _rows(group: SuperWeights) -> Iterator[dict[int, Combination]]:
    """Yield for each level that has coefficients where each weight has its own, by the weight's index."""
    for level, found in enumerate(group.levels):
        rows = {index: group.combinations[index][level] for index in sorted(found.readers)}
        if all(combination.start < group.layout.num_coefficients for combination in rows.values()):
            yield rows


def _groups(model: nn.Module) -> list[SuperWeights]:
    groups = require_shared(model).generators()
    if not all(isinstance(group, SuperWeights) for group in groups):
        name = require_shared(model).plan.config.combine
        raise ConfigError(
            f"combine: coefficients are tied in a model of SuperWeights, and this one was made by {name!r}"
        )
    return [group for group in groups if isinstance(group, SuperWeights)]


def _count(groups: Sequence[SuperWeights]) -> int:
    return sum(len(group.coefficient_index.unique()) for group in groups)
