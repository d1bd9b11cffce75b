"""Grouping layers by the coefficients that they learned."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
from torch import nn

from shapeshift.budget import Budget, count_parameters, parse_budget
from shapeshift.compression import check_compressible, compress
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ConfigError, MissingExtraError, ModelError
from shapeshift.extras import new_figure
from shapeshift.generators.softmax import Softmax
from shapeshift.mappings import Assignment
from shapeshift.plan import budget_range
from shapeshift.surgery.roots import require_shared


class LearnedMapping(Assignment):
    """A mapping from layers to groups, with the coefficients that it was learned from.

    Args:
        groups: the group of each layer, by the dotted name of its weight.
        coefficients: the share of each template in each of these weights, after the search.
    """

    kind = "a learned mapping"

    def __init__(self, groups: Mapping[str, str], coefficients: Mapping[str, Sequence[float]]) -> None:
        super().__init__(groups)
        if set(coefficients) != set(groups):
            raise ConfigError("a learned mapping needs the coefficients of exactly the layers that it maps")
        self.coefficients = {layer: tuple(map(float, coefficients[layer])) for layer in groups}

    def __str__(self) -> str:
        width = max(map(len, self))
        lines = []
        for group in sorted(set(self.values())):
            members = [layer for layer in self if self[layer] == group]
            lines.append(f"{group}: {len(members)} {'layer' if len(members) == 1 else 'layers'}")
            lines += [
                f"  {layer:<{width}}  " + " ".join(f"{share:.3f}" for share in self.coefficients[layer])
                for layer in members
            ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {"groups": dict(self), "coefficients": self.coefficients}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        return cls(fields["groups"], fields["coefficients"])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the share of each template in each layer, the layers sorted by group.

        Args:
            path: the image to write; its suffix names the format, such as .png.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        layers = sorted(self, key=self.__getitem__)
        shares = np.array([self.coefficients[layer] for layer in layers])
        figure = new_figure(3.5 + 0.5 * shares.shape[1], 1.2 + 0.18 * len(layers))
        axes = figure.add_subplot()
        image = axes.imshow(shares, aspect="auto", cmap="viridis")
        axes.set_yticks(range(len(layers)), [f"{layer} ({self[layer]})" for layer in layers], fontsize=7)
        axes.set_xticks(range(shares.shape[1]))
        axes.set(xlabel="template", title="share of each template")
        for row, (layer, following) in enumerate(itertools.pairwise(layers)):
            if self[layer] != self[following]:
                axes.axhline(row + 0.5, color="white", linewidth=2)
        figure.colorbar(image)
        figure.savefig(path, dpi=150)


def group_by_coefficients(
    model: nn.Module,
    budget: Budget,
    train: Callable[[nn.Module], Any],
    num_groups: int,
    num_templates: int | None,
    seed: int,
    **options: Any,
) -> LearnedMapping:
    """Learn a mapping by K-means; see :func:`shapeshift.learn_mapping`.

    Args:
        model: the model; it is not changed.
        budget: of the copy that is trained.
        train: trains it.
        num_groups: how many groups to make.
        num_templates: how many templates the layers choose from; 4 if None.
        seed: of the starting values and of K-means.
        **options: fields of :class:`shapeshift.Config`.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("learning a mapping", "mapping") from None
    if num_templates is not None and num_templates < 2:
        raise ConfigError(f"num_templates: layers choose from two templates at least, not from {num_templates!r}")
    check_compressible(model)
    config = Config(combine="softmax", max_templates=num_templates, num_groups=num_groups, seed=seed, **options)
    least, most = budget_range(model, config)
    allowed = parse_budget(budget, count_parameters(model))
    if allowed < least:
        raise BudgetError(f"a mapping cannot be learned with {allowed:,} parameters: the least is {least:,}")
    candidate = compress(copy.deepcopy(model), min(allowed, most), config)
    # Groups by dtype and device are no choice of the search's: their weights are clustered together.
    groups = [cast(Softmax, group) for group in require_shared(candidate).generators()]
    layers = [weight.name for group in groups for weight in group.weights]
    if len(layers) < num_groups:
        raise ConfigError(f"num_groups: {num_groups} groups cannot be made of {len(layers)} layers")
    train(candidate)
    rows = np.concatenate([group.probabilities().detach().double().cpu().numpy() for group in groups])
    if not np.isfinite(rows).all():
        raise ModelError("the search ended with coefficients that are not finite; train with a lower learning rate")
    distinct = len(np.unique(rows, axis=0))
    if distinct < num_groups:
        raise ModelError(
            f"the search left {distinct} distinct layers for {num_groups} groups: let train() run longer, or ask for "
            "fewer groups"
        )
    labels = KMeans(num_groups, n_init=10, random_state=seed % 2**32).fit_predict(rows)
    # Numbered in the order of the layers, so that equal clusters have equal names.
    order = {label: f"group{number}" for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    found = {layer: order[label] for layer, label in zip(layers, labels.tolist(), strict=True)}
    return LearnedMapping(found, dict(zip(layers, rows.tolist(), strict=True)))
