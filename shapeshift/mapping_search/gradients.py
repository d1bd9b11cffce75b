"""Learning a mapping from the agreement between the gradients of layers."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import nn

from shapeshift.budget import Budget, count_parameters, parse_budget
from shapeshift.compression import compress
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ConfigError
from shapeshift.extras import new_figure
from shapeshift.mapping_search.clusters import agreeing_clusters, by_member, coarse_clusters
from shapeshift.mappings import Assignment
from shapeshift.plan import budget_range
from shapeshift.running.labels import cross_entropy
from shapeshift.superweights.coefficients import share_coefficients
from shapeshift.superweights.family import Family
from shapeshift.superweights.weight_gradients import (
    SAMPLES,
    Loss,
    Matrix,
    WeightGradients,
    gradient_similarity,
    weight_gradients,
)
from shapeshift.weights import find_weights

THRESHOLD = 0.1
_STEP = 0.05


class GradientMapping(Assignment):
    """A mapping from layers to groups, with the similarities of the gradients that it was learned from.

    :func:`shapeshift.learn_mapping_by_gradients` returns it, and ``compress(model, budget, mapping=...)`` takes it.

    Args:
        groups: The name of each layer's group, by the dotted path of the layer's weight.
        similarity: The cosine between the gradients of any two layers, in the order of ``groups``, of shape
            (layers, layers). It is NaN where two kernels differ in size.
        threshold: The similarity above which layers were joined.
        samples: The number of samples that the gradients were averaged over.
        spread: The mean absolute difference between the similarities on one half of the batches and on the other; NaN
            if it is unknown.
        matches: The layer that each layer of another network than the deepest one was matched with. Both have one
            group.

    Raises:
        ConfigError: If ``similarity`` or ``matches`` does not fit the layers in ``groups``.

    Example:
        >>> import numpy, shapeshift
        >>> cosines = numpy.array([[1.0, 0.6, -0.2], [0.6, 1.0, -0.1], [-0.2, -0.1, 1.0]])
        >>> groups = {"0.weight": "group0", "1.weight": "group0", "2.weight": "group1"}
        >>> print(shapeshift.GradientMapping(groups, cosines, 0.1, samples=1000, spread=0.05, matches={}))
        joined above a cosine of 0.10 between gradients over 1,000 samples
        cosines over two halves of the samples differ by 0.05 on average
        group       layer     own group  others
        group0 (2)  0.weight       0.60   -0.20
                    1.weight       0.60   -0.10
        group1 (1)  2.weight          -   -0.15
    """

    kind = "a mapping learned from gradients"

    def __init__(
        self,
        groups: Mapping[str, str],
        similarity: Matrix,
        threshold: float,
        samples: int,
        spread: float,
        matches: Mapping[str, str],
    ) -> None:
        super().__init__(groups)
        if similarity.shape != (len(groups), len(groups)) or not {*matches, *matches.values()} <= set(groups):
            raise ConfigError(
                "a mapping learned from gradients needs the similarity of exactly the layers that it maps"
            )
        self.similarity = similarity
        self.threshold = threshold
        self.samples = samples
        self.spread = spread
        self.matches = dict(matches)

    @property
    def ties(self) -> list[list[str]]:
        """The sets of matched layers of several networks, for :func:`~shapeshift.superweights.share_coefficients`."""
        sets: dict[str, list[str]] = {}
        for layer, matched in self.matches.items():
            sets.setdefault(matched, [matched]).append(layer)
        return list(sets.values())

    def __str__(self) -> str:
        layers = list(self)

        def means(layer: str) -> list[str]:
            row, own = self.similarity[layers.index(layer)], self[layer]
            inside = np.array([self[other] == own and other != layer for other in layers])
            outside = np.array([self[other] != own for other in layers])
            return [_mean(row[inside]), _mean(row[outside])]

        return (
            f"joined above a cosine of {self.threshold:.2f} between gradients over {self.samples:,} samples\n"
            f"cosines over two halves of the samples differ by {self.spread:.2f} on average\n"
            + self._table(["own group", "others"], means)
        )

    def to_dict(self) -> dict[str, Any]:
        rows = [[None if np.isnan(value) else value for value in row] for row in self.similarity.tolist()]
        spread = None if np.isnan(self.spread) else self.spread
        return {
            "groups": dict(self),
            "similarity": rows,
            "threshold": self.threshold,
            "samples": self.samples,
            "spread": spread,
            "matches": self.matches,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        similarity = np.array(fields["similarity"], dtype=np.float64)
        spread = float("nan") if fields["spread"] is None else fields["spread"]
        return cls(**{**fields, "similarity": similarity, "spread": spread})

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the similarity between the gradients of any two layers, with the layers sorted by group.

        Args:
            path: The image file to write. Its suffix names the format, such as .png.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        layers = list(self)
        order = [layers.index(layer) for layer in itertools.chain(*self.by_group().values())]
        side = 2.5 + 0.16 * len(layers)
        figure = new_figure(side + 1, side)
        axes = figure.add_subplot()
        image = axes.imshow(self.similarity[np.ix_(order, order)], vmin=-1, vmax=1, cmap="RdBu")
        axes.set_facecolor("0.85")
        axes.set_yticks(range(len(order)), [f"{layers[index]} ({self[layers[index]]})" for index in order], fontsize=6)
        axes.set_xticks([])
        axes.set_title(f"cosines between gradients over {self.samples:,} samples", fontsize=9)
        for place, (index, following) in enumerate(itertools.pairwise(order)):
            if self[layers[index]] != self[layers[following]]:
                axes.axhline(place + 0.5, color="black", linewidth=0.8)
                axes.axvline(place + 0.5, color="black", linewidth=0.8)
        figure.colorbar(image, shrink=0.6)
        figure.savefig(path, dpi=150)


def learn_mapping_by_gradients(
    model: nn.Module | Sequence[nn.Module],
    budget: Budget,
    train: Callable[[nn.Module], Any],
    data: Iterable[Any],
    num_groups: int = 4,
    num_templates: int | None = None,
    seed: int = 0,
    *,
    loss: Loss = cross_entropy,
    samples: int = SAMPLES,
    threshold: float = THRESHOLD,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> GradientMapping:
    """Learn which layers share parameters, from the agreement of their gradients (Teterwak et al. 2024).

    A copy of the model is compressed to SuperWeights in coarse clusters, which are layers of one kind that follow one
    another. All layers of a cluster mix the SuperWeights with the same coefficients. After ``train``, the gradient of
    the loss with respect to each layer's own weight is measured. Layers of a coarse cluster form a group if their
    gradients have a cosine above the threshold, on the rows and columns that both weights have. The threshold is
    lowered in steps of 0.05 until the groups fit the budget.

    Args:
        model: The model, or the networks of a :class:`shapeshift.superweights.Family`. It is not changed.
        budget: The number of trainable parameters that the groups have to fit, as in :func:`shapeshift.compress`.
        train: A function that trains the copy in place. A part of a full training is enough. Networks of a family are
            trained as one :class:`shapeshift.superweights.Family`.
        data: Batches that the gradients are measured on. Reading ends after ``samples`` samples.
        num_groups: The number of coarse clusters.
        num_templates: The largest number of templates that a layer mixes in the search. None stands for 8.
        seed: The seed of the starting values.
        loss: A function of the model and a batch that returns the mean loss of the samples. The default is the
            cross-entropy of a batch ``(x, y)`` or of a dict with "labels", summed over the members of a family.
        samples: The least number of samples that the gradients are averaged over.
        threshold: The cosine above which layers are joined, before it is lowered.
        include: Names or shell patterns of parameters or modules, as in :class:`shapeshift.Config`. If there are any,
            only their weights are mapped.
        exclude: Names or shell patterns of parameters or modules whose weights are not mapped.

    Returns:
        The mapping for ``compress(model, budget, mapping=...)``. It can be printed, plotted and saved.

    Raises:
        BudgetError: If the budget cannot be read, or is less than the coarse clusters need.
        ConfigError: If a pattern matches nothing.
        DataError: If the data holds too few samples.
        ModelError: If the model cannot be compressed, a gradient is not finite, or the loss does not depend on a
            weight.

    Example:
        >>> import shapeshift, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> batches = [(torch.randn(32, 8), torch.randint(4, (32,))) for _ in range(2)]
        >>> def train(copy):  # a stand-in for your own training loop
        ...     optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
        ...     for x, y in batches:
        ...         optimizer.zero_grad()
        ...         nn.functional.cross_entropy(copy(x), y).backward()
        ...         optimizer.step()
        >>> mapping = shapeshift.learn_mapping_by_gradients(model, "80%", train, batches, num_groups=1, samples=64)
        >>> list(mapping), mapping.samples
        (['0.weight', '2.weight', '4.weight'], 64)
        >>> compressed = shapeshift.compress(model, "80%", combine="superweights", mapping=mapping)
    """
    network = model if isinstance(model, nn.Module) else Family(model)
    patterns: dict[str, Any] = {"include": include, "exclude": exclude}
    config = Config(
        combine="superweights",
        max_templates=num_templates,
        num_groups=num_groups,
        seed=seed,
        **patterns,
    )
    weights = find_weights(network, config.include, config.exclude)
    names = [weight.name for weight in weights]
    count = len(network.members) if isinstance(network, Family) else 0
    members = by_member(names, [f"members.{index}." for index in range(count)] or [""])
    coarse = coarse_clusters(weights, members, num_groups)
    config = dataclasses.replace(config, mapping=Assignment(dict(zip(names, coarse, strict=True))))
    least, most = budget_range(network, config)
    allowed = parse_budget(budget, count_parameters(network))
    if allowed < least:
        raise BudgetError(
            f"a mapping cannot be learned with {allowed:,} parameters: the least for {len(set(coarse))} coarse "
            f"clusters is {least:,}. Allow more, or begin with fewer (num_groups is {num_groups})"
        )
    candidate = compress(copy.deepcopy(network), min(allowed, most), config)
    # With equal coefficients, the gradients of two layers differ only by what the layers ask of their shared weights.
    share_coefficients(candidate)
    train(candidate)
    gradients = weight_gradients(candidate, data, loss, samples)
    similarity = gradient_similarity(gradients.mean, names)
    while True:
        # At -1 whole coarse clusters are joined, and those fit the budget.
        labels, matches = agreeing_clusters(similarity, coarse, members, threshold if threshold > -1 else -np.inf)
        groups = {name: f"group{label}" for name, label in zip(names, labels, strict=True)}
        if threshold <= -1 or budget_range(network, dataclasses.replace(config, mapping=groups))[0] <= allowed:
            break
        threshold = max(-1.0, round(threshold - _STEP, 6))
    matched = {names[index]: names[other] for index, other in matches.items()}
    return GradientMapping(groups, similarity, threshold, gradients.samples, _spread(gradients, names), matched)


def _spread(gradients: WeightGradients, names: Sequence[str]) -> float:
    """Return the mean absolute difference of the similarities between the halves; NaN if there is one half only."""
    first, second = gradients.halves
    if not second:
        return float("nan")
    return float(np.nanmean(np.abs(gradient_similarity(first, names) - gradient_similarity(second, names))))


def _mean(values: Matrix) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.2f}" if len(known) else "-"
