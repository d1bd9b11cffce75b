"""The one way to learn a mapping, by either method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, overload

from torch import nn

from shapeshift.budget import Budget
from shapeshift.errors import ConfigError
from shapeshift.mapping_search.gradients import THRESHOLD, GradientMapping, group_by_gradients
from shapeshift.mapping_search.kmeans import LearnedMapping, group_by_coefficients
from shapeshift.running.labels import cross_entropy
from shapeshift.superweights.family import Family
from shapeshift.superweights.weight_gradients import SAMPLES, Loss


@overload
def learn_mapping(
    model: nn.Module | Sequence[nn.Module],
    budget: Budget,
    train: Callable[[nn.Module], Any],
    num_groups: int = ...,
    num_templates: int | None = ...,
    seed: int = ...,
    *,
    method: Literal["kmeans"] = ...,
    **options: Any,
) -> LearnedMapping: ...


@overload
def learn_mapping(
    model: nn.Module | Sequence[nn.Module],
    budget: Budget,
    train: Callable[[nn.Module], Any],
    num_groups: int = ...,
    num_templates: int | None = ...,
    seed: int = ...,
    *,
    method: Literal["gradient"],
    data: Iterable[Any],
    loss: Loss = ...,
    samples: int = ...,
    threshold: float = ...,
    **options: Any,
) -> GradientMapping: ...


def learn_mapping(
    model: nn.Module | Sequence[nn.Module],
    budget: Budget,
    train: Callable[[nn.Module], Any],
    num_groups: int = 4,
    num_templates: int | None = None,
    seed: int = 0,
    *,
    method: str = "kmeans",
    data: Iterable[Any] | None = None,
    loss: Loss = cross_entropy,
    samples: int = SAMPLES,
    threshold: float = THRESHOLD,
    **options: Any,
) -> LearnedMapping | GradientMapping:
    """Learn which layers of a model, or of a family of models, share parameters, from a short training.

    ``method="kmeans"`` (Plummer et al. 2022, section 3.2): a copy of the model is compressed so that all layers mix the
    same templates, each stretched to the layer, by a softmax over learned coefficients. After ``train``, layers whose
    coefficients lie close together by K-means form a group. Where the budget is larger than such a copy can use, the
    search runs at the most that it can.

    ``method="gradient"`` (Teterwak et al. 2024): a copy is compressed to SuperWeights in coarse clusters, layers of one
    kind that follow one another, which all layers of a cluster mix with the same coefficients. After ``train``, the
    gradient of the loss with respect to each layer's own weight is measured. Within a coarse cluster, those whose
    gradients have a cosine above the threshold, on the rows and columns that both have, form a group. The threshold is
    lowered, by 0.05 at a time, until the groups fit the budget.

    Args:
        model: the model, or the networks of a :class:`shapeshift.superweights.Family`; not changed.
        budget: as in :func:`shapeshift.compress`.
        train: trains the copy that it is given in place, as the user trains any model; a part of a full training is
            enough. Networks are given as a family.
        num_groups: how many groups to make by K-means, or how many coarse clusters to begin with.
        num_templates: how many templates the layers choose from in the search, at least 2 with K-means; None for 4
            with K-means, and up to 8 SuperWeights.
        seed: of the starting values and of K-means, for which it is taken modulo 2**32.
        method: "kmeans" or "gradient".
        data: batches that gradients are measured on, read until there were enough samples.
        loss: returns the mean loss of the samples of a batch, given the model and the batch; by default the
            cross-entropy of ``(x, y)`` or of a dict with "labels", summed over the members of a family.
        samples: how many samples gradients are measured on at least.
        threshold: the cosine to begin with.
        **options: ``include`` and ``exclude``, as in :class:`shapeshift.Config`.

    Returns:
        The mapping, for ``compress(model, budget, mapping=...)``; it can be printed, plotted and saved.

    Raises:
        BudgetError, ConfigError, ModelError: as :func:`shapeshift.compress`.
        ConfigError: if there are fewer layers than groups, the method is unknown or has no use for an argument, or an
            option is neither ``include`` nor ``exclude``.
        DataError: if the data holds too few samples.
        ModelError: if training left fewer distinct layers than groups, or numbers that are not finite.
        MissingExtraError: if K-means is asked for and scikit-learn is not installed.
    """
    if unknown := ", ".join(sorted(set(options) - {"include", "exclude"})):
        raise ConfigError(f"unknown option {unknown}; the search takes include and exclude, and compress the others")
    if not isinstance(model, nn.Module):
        model = Family(model)
    if method == "kmeans":
        for name, value, default in (
            ("data", data, None),
            ("loss", loss, cross_entropy),
            ("samples", samples, SAMPLES),
            ("threshold", threshold, THRESHOLD),
        ):
            if value is not default:
                raise ConfigError(f'{name}: K-means measures no gradients; leave it out, or choose method="gradient"')
        return group_by_coefficients(model, budget, train, num_groups, num_templates, seed, **options)
    if method == "gradient":
        if data is None:
            raise ConfigError("data: give batches to measure gradients on, such as the training data")
        options |= {"max_templates": num_templates, "seed": seed}
        return group_by_gradients(model, budget, train, num_groups, data, loss, samples, threshold, **options)
    raise ConfigError(f"method must be 'kmeans' or 'gradient', not {method!r}")
