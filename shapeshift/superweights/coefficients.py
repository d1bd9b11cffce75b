"""Coefficients that layers share, until their gradients conflict."""

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
    """Tie the coefficients of layers, for the SuperWeights that the layers have in common (Teterwak et al. 2024).

    Call it before training. Later, :func:`unshare_coefficients` separates the coefficients of layers that conflict. An
    earlier call's ties end. All coefficients remain parameters within the budget, so one optimizer can hold them from
    the start. The values of coefficients that are tied to others are not used.

    Args:
        model: A model compressed with ``combine="superweights"``. It is changed in place.
        layers: Sets of names or shell patterns of layers. None stands for one set of all layers in each parameter
            group.

    Returns:
        The number of coefficients that are in use.

    Raises:
        ConfigError: If the model's weights are no SuperWeights, a pattern matches nothing, or two sets share a layer.
        ModelError: If the model is not compressed.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.superweights import Family, share_coefficients
        >>> family = Family([WideResNet(10, 0.5), WideResNet(10, 0.25)], budget="90%")
        >>> used = share_coefficients(family)
        >>> used < sum(group.coefficients.numel() for group in family.shapeshift.generators())
        True
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
    """Separate the tied coefficients of layers whose gradients point in different directions (Teterwak et al. 2024).

    The gradient of the loss with respect to each layer's coefficients is measured as if they were not tied. Two layers
    stay tied if a chain of pairs whose gradients have a cosine above the threshold connects them. Other layers get
    coefficients of their own, with the present values. No parameter is created or replaced, so the optimizer goes on.

    Args:
        model: A compressed model after :func:`share_coefficients`. It is changed in place.
        data: Batches that the gradients are measured on. Reading ends after ``samples`` samples.
        loss: A function of the model and a batch that returns the mean loss of the samples. The default is the
            cross-entropy of a batch ``(x, y)`` or of a dict with "labels", summed over the members of a family.
        samples: The least number of samples that the gradients are averaged over.
        threshold: The cosine above which layers stay tied.

    Returns:
        The number of coefficients that are in use.

    Raises:
        ConfigError: If the model's weights are no SuperWeights.
        DataError: If the data holds fewer samples.
        ModelError: If the model is not compressed, or a gradient is not finite.

    Example:
        >>> import torch
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.superweights import Family, share_coefficients, unshare_coefficients
        >>> family = Family([WideResNet(10, 0.5), WideResNet(10, 0.25)], budget="90%")
        >>> shared = share_coefficients(family)
        >>> batches = [(torch.randn(32, 3, 8, 8), torch.randint(10, (32,)))]
        >>> unshare_coefficients(family, batches, samples=32) >= shared
        True
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
    """Split tied coefficients into sets that agree. Each set but the one of the source gets values of its own."""
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
    """Yield the combination of each weight, by the weight's index, for each level that has coefficients."""
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
