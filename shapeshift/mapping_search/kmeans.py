"""Learning a mapping from the coefficients of layers that mix the same templates, by K-means."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from shapeshift.budget import Budget, count_parameters, parse_budget
from shapeshift.compression import check_compressible, compress
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ConfigError, MissingExtraError, ModelError
from shapeshift.extras import new_figure
from shapeshift.generators.softmax import Softmax
from shapeshift.mappings import Assignment
from shapeshift.plan import budget_range
from shapeshift.superweights.family import Family
from shapeshift.surgery.roots import require_shared


class LearnedMapping(Assignment):
    """A mapping from layers to groups, with the coefficients that it was learned from.

    :func:`shapeshift.learn_mapping` returns it, and ``compress(model, budget, mapping=...)`` takes it.

    Args:
        groups: The name of each layer's group, by the dotted path of the layer's weight.
        coefficients: The share of each template in each of these weights at the end of the search. The shares of a
            weight add up to 1.

    Raises:
        ConfigError: If the coefficients are not those of exactly the layers in ``groups``.

    Example:
        >>> import shapeshift
        >>> shares = {"0.weight": [0.9, 0.1], "1.weight": [0.8, 0.2], "2.weight": [0.1, 0.9]}
        >>> groups = {"0.weight": "group0", "1.weight": "group0", "2.weight": "group1"}
        >>> print(shapeshift.LearnedMapping(groups, shares))
        group       layer     template 0  template 1
        group0 (2)  0.weight       0.900       0.100
                    1.weight       0.800       0.200
        group1 (1)  2.weight       0.100       0.900
    """

    kind = "a learned mapping"

    def __init__(self, groups: Mapping[str, str], coefficients: Mapping[str, Sequence[float]]) -> None:
        super().__init__(groups)
        if set(coefficients) != set(groups):
            raise ConfigError("a learned mapping needs the coefficients of exactly the layers that it maps")
        self.coefficients = {layer: tuple(map(float, coefficients[layer])) for layer in groups}

    def __str__(self) -> str:
        templates = max(map(len, self.coefficients.values()), default=0)
        header = [f"template {index}" for index in range(templates)]
        return self._table(header, lambda layer: [f"{share:.3f}" for share in self.coefficients[layer]])

    def to_dict(self) -> dict[str, Any]:
        return {"groups": dict(self), "coefficients": self.coefficients}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        return cls(fields["groups"], fields["coefficients"])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the share of each template in each layer, with the layers sorted by group.

        Args:
            path: The image file to write. Its suffix names the format, such as .png.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        layers = list(itertools.chain(*self.by_group().values()))
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


def learn_mapping(
    model: nn.Module | Sequence[nn.Module],
    budget: Budget,
    train: Callable[[nn.Module], Any],
    num_groups: int = 4,
    num_templates: int | None = None,
    seed: int = 0,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> LearnedMapping:
    """Learn from a short training which layers share parameters (Plummer et al. 2022, section 3.2).

    A copy of the model is compressed so that all layers mix the same templates, each of them stretched to the size of
    the layer, by a softmax over learned coefficients. After ``train``, K-means puts layers with similar coefficients
    into one group. If the budget is larger than such a copy can use, the copy has the largest size that it can use.

    Args:
        model: The model, or the networks of a :class:`shapeshift.superweights.Family`. It is not changed.
        budget: The number of trainable parameters of the copy, as in :func:`shapeshift.compress`.
        train: A function that trains the copy in place. A part of a full training is enough. Networks of a family are
            trained as one :class:`shapeshift.superweights.Family`.
        num_groups: The number of groups.
        num_templates: The number of templates that the layers mix, at least 2. None stands for 4.
        seed: The seed of the starting values and of K-means, which takes it modulo 2**32.
        include: Names or shell patterns of parameters or modules, as in :class:`shapeshift.Config`. If there are any,
            only their weights are mapped.
        exclude: Names or shell patterns of parameters or modules whose weights are not mapped.

    Returns:
        The mapping for ``compress(model, budget, mapping=...)``. It can be printed, plotted and saved.

    Raises:
        BudgetError: If the budget cannot be read, or is less than the copy needs.
        ConfigError: If there are fewer layers than groups, fewer templates than 2, or a pattern matches nothing.
        MissingExtraError: If scikit-learn is not installed.
        ModelError: If the model cannot be compressed, or its coefficients after training are not finite or have fewer
            distinct rows than there are groups.

    Example:
        >>> import shapeshift, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
        >>> def train(copy):  # a stand-in for your own training loop
        ...     optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
        ...     copy(torch.randn(16, 8)).square().sum().backward()
        ...     optimizer.step()
        >>> mapping = shapeshift.learn_mapping(model, "50%", train, num_groups=2)
        >>> list(mapping), len(set(mapping.values()))
        (['0.weight', '1.weight', '2.weight'], 2)
        >>> compressed = shapeshift.compress(model, "50%", mapping=mapping)
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("learning a mapping", "mapping") from None
    if num_templates is not None and num_templates < 2:
        raise ConfigError(f"num_templates: layers choose from two templates at least, not from {num_templates!r}")
    network = model if isinstance(model, nn.Module) else Family(model)
    check_compressible(network)
    patterns: dict[str, Any] = {"include": include, "exclude": exclude}
    config = Config(
        combine="softmax",
        max_templates=num_templates,
        num_groups=num_groups,
        seed=seed,
        **patterns,
    )
    least, most = budget_range(network, config)
    allowed = parse_budget(budget, count_parameters(network))
    if allowed < least:
        raise BudgetError(f"a mapping cannot be learned with {allowed:,} parameters: the least is {least:,}")
    candidate = compress(copy.deepcopy(network), min(allowed, most), config)
    # The weights are in several groups only where their dtypes or devices differ. They are clustered together.
    groups = [cast(Softmax, group) for group in require_shared(candidate).generators()]
    layers = [weight.name for group in groups for weight in group.weights]
    if len(layers) < num_groups:
        raise ConfigError(f"num_groups: {num_groups} groups cannot be made of {len(layers)} layers")
    train(candidate)
    rows = np.concatenate([group.probabilities().detach().double().cpu().numpy() for group in groups])
    _check_coefficients(rows, num_groups)
    labels = KMeans(num_groups, n_init=10, random_state=seed % 2**32).fit_predict(rows).tolist()
    # Groups are numbered in the order of the layers, so that equal clusters have equal names.
    names = {label: f"group{number}" for number, label in enumerate(dict.fromkeys(labels))}
    found = {layer: names[label] for layer, label in zip(layers, labels, strict=True)}
    return LearnedMapping(found, dict(zip(layers, rows.tolist(), strict=True)))


def _check_coefficients(rows: npt.NDArray[np.float64], num_groups: int) -> None:
    """Raise an error if the coefficients of a search, of shape (layers, templates), cannot be clustered."""
    if not np.isfinite(rows).all():
        raise ModelError("the search ended with coefficients that are not finite; train with a lower learning rate")
    distinct = len(np.unique(rows, axis=0))
    if distinct < num_groups:
        raise ModelError(
            f"the search left {distinct} distinct layers for {num_groups} groups: let train() run longer, or ask for "
            "fewer groups"
        )
