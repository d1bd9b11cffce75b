"""Rates that make a pruned model as small, or as fast, as wanted."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from shapeshift.budget import Budget, count_parameters, parse_budget
from shapeshift.errors import BudgetError, ConfigError
from shapeshift.prune.feature_ranks import check_plain
from shapeshift.prune.groups import Rate, breakpoints
from shapeshift.prune.hrank import cuts_of, dropped_sets, removable_filters
from shapeshift.prune.layers import OUT, num_channels
from shapeshift.prune.masks import unmask
from shapeshift.prune.record import cut
from shapeshift.running.batches import Batches, Inputs, device_of, read_batch
from shapeshift.running.macs import count_macs


@torch.inference_mode(mode=False)
def rate_for(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    params: Budget | None = None,
    macs: Budget | None = None,
    ranks: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Find the lowest rates at which the pruned model meets a target, as equal for all layers as filters allow.

    What is counted is the model that :func:`hrank` would return, on the meta device: no ranks are measured, since the
    sizes do not depend on which filters are dropped.

    Args:
        model: a plain model; it is not changed.
        loader: as in :func:`feature_ranks`; only the first image of its first batch is used.
        params: the most trainable parameters that it may have: an int, a fraction of the model's own count as a
            float, or a string such as "1.5M" or "40%".
        macs: the most multiply-accumulates for one image, in the same forms. Give one of the two.
        ranks: what :func:`feature_ranks` returned, if only its layers are to be pruned.

    Returns:
        The rate of each layer that can be pruned, for :func:`hrank`, in the order in which they run.

    Raises:
        BudgetError: if the target cannot be read, or no rates meet it.
        ConfigError: if both targets are given, or none.
        DataError, ModelError, MissingExtraError: as :func:`hrank`.
    """
    target = params if params is not None else macs
    if target is None or (params is not None and macs is not None):
        raise ConfigError("rate_for: give one target, params= or macs=")
    check_plain(model)
    example = read_batch(Batches(loader).first, device_of(model)).example()
    filters = removable_filters(model, example, ranks)
    blank = ranks or {layer: torch.zeros(num_channels(model.get_submodule(layer), OUT)) for layer in filters.layers}
    on_meta = copy.deepcopy(model).to("meta")
    unmask(on_meta)
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (example.args, example.kwargs))

    def cost(rate: Rate) -> int:
        candidate = copy.deepcopy(on_meta)
        cut(candidate, cuts_of(candidate, dropped_sets(filters, blank, filters.rates(rate))))
        return count_parameters(candidate) if params is not None else count_macs(candidate, Inputs(args, kwargs))

    steps = breakpoints(filters.groups)
    allowed = parse_budget(target, cost(0.0))
    index = bisect.bisect_left(steps, -allowed, key=lambda rate: -cost(rate))
    if index == len(steps):
        what = "parameters" if params is not None else "multiply-accumulates"
        raise BudgetError(
            f"no rates leave {allowed:,} {what} of {type(model).__name__}: with one filter in each layer that can be "
            f"pruned it has {cost(steps[-1]):,}"
        )
    rates = dict.fromkeys(filters.layers, steps[index])
    for group in filters.groups if index else ():
        # At the last step, layers of one size lose a filter together, and not all of them need to.
        spared = rates | dict.fromkeys(group.layers, steps[index - 1])
        if cost(spared) <= allowed:
            rates = spared
    return rates
