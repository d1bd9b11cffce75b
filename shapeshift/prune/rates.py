"""Pruning rates for a target number of parameters or multiply-accumulates."""

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

    The parameters or multiply-accumulates are those of the model that :func:`hrank` would return. They do not depend on
    which filters are dropped, so no ranks over the loader are measured.

    Args:
        model: The plain model; it is not changed.
        loader: Batches as in :func:`feature_ranks`; only the first image of the first batch is used.
        params: The highest number of trainable parameters: an int, a fraction of the model's own number as a float, or
            a string such as "1.5M" or "40%".
        macs: The highest number of multiply-accumulates for one image, in the same forms. Give either this or
            ``params``.
        ranks: The ranks that :func:`feature_ranks` returned, to prune only their layers. None prunes all layers that
            can be pruned.

    Returns:
        The rate of each layer that can be pruned, for :func:`hrank`, in the order in which they run.

    Raises:
        BudgetError: If the target cannot be read, or no rates meet it.
        ConfigError: If both targets are given, or none, or the ranks are not those of the model.
        DataError: If the loader is empty, or its first batch holds no tensor.
        ModelError: If the model is compressed or wrapped, or has no filters that can be removed.
        MissingExtraError: If torch-pruning is not installed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from shapeshift.prune import hrank, rate_for, report
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> loader = [torch.randn(2, 3, 16, 16)]
        >>> rates = rate_for(model, loader, params="40%")
        >>> made = report(hrank(model, loader, rates, progress=False))
        >>> made.parameters <= 0.4 * made.parameters_before
        True
    """
    target = params if params is not None else macs
    if target is None or (params is not None and macs is not None):
        raise ConfigError("rate_for: give one target, either params= or macs=")
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
        # At the last step, all groups of one size lose a filter, though fewer of them may suffice.
        spared = rates | dict.fromkeys(group.layers, steps[index - 1])
        if cost(spared) <= allowed:
            rates = spared
    return rates
