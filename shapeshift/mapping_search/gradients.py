"""Grouping layers by whether the gradients of their weights agree."""

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
from shapeshift.superweights.coefficients import share_coefficients
from shapeshift.superweights.family import Family
from shapeshift.superweights.weight_gradients import Loss, Matrix, gradient_similarity, weight_gradients
from shapeshift.weights import find_weights

THRESHOLD = 0.1
_STEP = 0.05


class GradientMapping(Assignment):
    """A mapping from layers to groups, with the similarity of their gradients that it was learned from.

    Args:
        groups: the group of each layer, by the dotted name of its weight.
        similarity: the cosine between the gradients of any two layers, in the order of ``groups``; NaN where two
            weights have another kernel.
        threshold: the similarity from which on layers were joined.
        samples: how many samples the gradients were taken over.
        spread: the mean difference between similarities that were measured on every other batch; NaN if unknown.
        matches: for layers of other networks than the deepest, the layer whose group they joined.
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
        """Layers of several networks that were matched, for :func:`~shapeshift.superweights.share_coefficients`."""
        sets: dict[str, list[str]] = {}
        for layer, matched in self.matches.items():
            sets.setdefault(matched, [matched]).append(layer)
        return list(sets.values())

    def __str__(self) -> str:
        layers, width = list(self), max(map(len, self))
        lines = [
            f"joined above a cosine of {self.threshold:.2f} between gradients over {self.samples:,} samples; "
            f"on half of them each, cosines differ by {self.spread:.2f}",
            f"{'':<{width + 2}}  own group  others",
        ]
        for group in sorted(set(self.values()), key=layers_first(layers, self)):
            inside = [index for index, layer in enumerate(layers) if self[layer] == group]
            outside = [index for index in range(len(layers)) if index not in inside]
            lines.append(f"{group}: {len(inside)} {'layer' if len(inside) == 1 else 'layers'}")
            for index in inside:
                own = _mean(self.similarity[index, [other for other in inside if other != index]])
                others = _mean(self.similarity[index, outside])
                lines.append(f"  {layers[index]:<{width}}  {own:>9}  {others:>6}")
        return "\n".join(lines)

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
        """Draw the similarity between the gradients of any two layers, the layers sorted by group.

        Args:
            path: the image to write; its suffix names the format, such as .png.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        layers = list(self)
        rank = layers_first(layers, self)
        order = sorted(range(len(layers)), key=lambda index: (rank(self[layers[index]]), index))
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


def layers_first(layers: Sequence[str], groups: Mapping[str, str]) -> Callable[[str], int]:
    """Return a key that sorts groups by the place of their first layer."""
    places: dict[str, int] = {}
    for place, layer in enumerate(layers):
        places.setdefault(groups[layer], place)
    return places.__getitem__


def _mean(values: Matrix) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.2f}" if len(known) else "-"


def group_by_gradients(
    model: nn.Module,
    budget: Budget,
    train: Callable[[nn.Module], Any],
    num_groups: int,
    data: Iterable[Any],
    loss: Loss,
    samples: int,
    threshold: float,
    **options: Any,
) -> GradientMapping:
    """Learn a mapping from gradients that conflict; see :func:`shapeshift.learn_mapping`.

    Args:
        model: the model; it is not changed.
        budget: what the groups are to fit in.
        train: trains a copy.
        num_groups: how many coarse clusters to begin with.
        data: what gradients are measured on.
        loss: the loss of a batch.
        samples: how many samples to measure on.
        threshold: the similarity to begin with.
        **options: fields of :class:`shapeshift.Config`.
    """
    config = Config(combine="superweights", num_groups=num_groups, **options)
    weights = find_weights(model, config.include, config.exclude)
    names = [weight.name for weight in weights]
    count = len(model.members) if isinstance(model, Family) else 0
    members = by_member(names, [f"members.{index}." for index in range(count)] or [""])
    coarse = coarse_clusters(weights, members, num_groups)
    config = dataclasses.replace(config, mapping=Assignment(dict(zip(names, coarse, strict=True))))
    least, most = budget_range(model, config)
    allowed = parse_budget(budget, count_parameters(model))
    if allowed < least:
        raise BudgetError(
            f"a mapping cannot be learned with {allowed:,} parameters: the least for {len(set(coarse))} coarse "
            f"clusters is {least:,}. Allow more, or begin with fewer (num_groups is {num_groups})"
        )
    candidate = compress(copy.deepcopy(model), min(allowed, most), config)
    # One row for all, so that layers differ in nothing but what they ask of the weights that they share.
    share_coefficients(candidate)
    train(candidate)
    gradients = weight_gradients(candidate, data, loss, samples)
    found = gradient_similarity(gradients.mean, names)
    first, second = gradients.halves
    spread = float("nan")
    if second:
        spread = float(np.nanmean(np.abs(gradient_similarity(first, names) - gradient_similarity(second, names))))

    def group(threshold: float) -> tuple[dict[str, str], dict[int, int]]:
        labels, matches = agreeing_clusters(found, coarse, members, threshold)
        return {name: f"group{label}" for name, label in zip(names, labels, strict=True)}, matches

    groups, matches = group(threshold)
    # At -1 whole coarse clusters are joined, for which there is room.
    while threshold > -1 and budget_range(model, dataclasses.replace(config, mapping=groups))[0] > allowed:
        threshold = max(-1.0, round(threshold - _STEP, 6))
        groups, matches = group(threshold if threshold > -1 else -np.inf)
    matched = {names[index]: names[other] for index, other in matches.items()}
    return GradientMapping(groups, found, threshold, gradients.samples, spread, matched)
