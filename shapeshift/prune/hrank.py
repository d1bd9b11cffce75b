"""HRank: pruning the filters whose feature maps have the lowest ranks."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from shapeshift.budget import count_parameters
from shapeshift.errors import ConfigError, ModelError, ShapeshiftWarning
from shapeshift.prune.channels import ChannelSet, Place, channel_sets
from shapeshift.prune.feature_ranks import check_plain, feature_ranks, known_layers, measure_ranks
from shapeshift.prune.groups import Filters, Rate, find_filters
from shapeshift.prune.layers import OUT, kind_of, num_channels
from shapeshift.prune.masks import mask as mask_entries
from shapeshift.prune.masks import unmask
from shapeshift.prune.record import Kept, PruningRecord, attach_record, cut
from shapeshift.running.batches import Batches, Inputs, device_of, read_batch
from shapeshift.running.macs import count_macs, describe_inputs
from shapeshift.running.modes import evaluating

ModelT = TypeVar("ModelT", bound=nn.Module)

_SHOWN = 5


@torch.inference_mode(mode=False)  # tensors made in inference mode have no graph, and can never be trained
def hrank(
    model: ModelT,
    loader: Iterable[Any],
    rate: Rate = 0.5,
    *,
    mask: bool = False,
    ranks: Mapping[str, Tensor] | None = None,
    progress: bool = True,
) -> ModelT:
    """Remove the filters whose feature maps have the lowest mean ranks (HRank: Lin et al. 2020, section 3).

    Each layer loses the ``floor(rate * filters)`` filters of the lowest rank. Channels that depend on each other, such
    as those that a residual sum adds up, go together, by the mean of their ranks and at the mean of the rates given for
    their layers. Attention heads stay whole, and so do layers that cannot be followed safely.

    Args:
        model: The plain model, which may be masked; it is not changed.
        loader: Batches as in :func:`feature_ranks`; they are read once.
        rate: The share of filters to remove, in [0, 1): one for all layers, a dict from dotted paths to rates (other
            layers stay whole), or a list with one for each layer that can be pruned, in the order in which they run.
        mask: Whether to set the filters to zero instead, in a model of the same shapes. They stay zero in training:
            their gradients are dropped, and before each forward pass they are set to zero again.
        ranks: The ranks that :func:`feature_ranks` returned. None measures them.
        progress: Whether to show a progress bar.

    Returns:
        The pruned copy, a plain model of the same classes. :func:`report` describes it.

    Raises:
        ConfigError: If a rate lies outside of [0, 1) or names a layer that cannot be pruned, a list has another length,
            or the ranks are not those of the model.
        DataError: If the loader is empty, or yields no tensors.
        ModelError: If the model is compressed or wrapped, has no filters that can be removed, or does not run without
            them.
        MissingExtraError: If torch-pruning, or tqdm for the progress bar, is not installed.

    Warns:
        ShapeshiftWarning: If a layer loses filters and all of its ranks are the same.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from shapeshift.prune import hrank
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> images = torch.randn(2, 3, 16, 16)
        >>> pruned = hrank(model, [images], rate=0.5, progress=False)
        >>> pruned[0].out_channels, pruned[2].in_channels
        (4, 4)
        >>> pruned(images).shape == model(images).shape
        True
    """
    check_plain(model)
    batches = Batches(loader)
    example = read_batch(batches.first, device_of(model)).example()
    pruned = copy.deepcopy(model)
    unmask(pruned)
    filters = removable_filters(pruned, example, ranks)
    rates = filters.rates(rate)
    if ranks is None:
        ranks = feature_ranks(pruned, batches, filters.layers, progress=progress)
    _warn_of_equal_ranks(filters, ranks, rates)
    dropped = dropped_sets(filters, ranks, rates)
    if mask:
        mask_entries(pruned, _entries(pruned, dropped))
        return pruned
    cuts = cuts_of(pruned, dropped)
    record = PruningRecord(cuts, describe_inputs(example), count_parameters(pruned), count_macs(pruned, example))
    expected = _output_shapes(pruned, example)
    cut(pruned, cuts)
    try:
        found = _output_shapes(pruned, example)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} does not run without its filters of low rank ({type(error).__name__}: {error}): "
            "its code relies on a number of channels. Give rates for other layers only, as rate={layer: rate}"
        ) from error
    if found != expected:
        raise ModelError(
            f"{type(model).__name__} has outputs of shape {found} instead of {expected} without its filters of low "
            "rank. Give rates for other layers only, as rate={layer: rate}"
        )
    broken = _error_in_training(pruned, example)
    if broken is not None and _error_in_training(model, example) is None:
        raise ModelError(
            f"{type(model).__name__} does not train without its filters of low rank ({type(broken).__name__}: {broken})"
            ": layers that run in training only read them. Give rates for other layers only, as rate={layer: rate}"
        )
    attach_record(pruned, cuts, record)
    return pruned


def removable_filters(model: nn.Module, example: Inputs, ranks: Mapping[str, Tensor] | None) -> Filters:
    """Find the filters of a model that can be removed.

    Args:
        model: The plain model.
        example: The arguments of the model for one image.
        ranks: The ranks that were measured. None looks for all layers with feature maps.

    Raises:
        ConfigError: If the ranks are not those of the model.
        ModelError: If the model has no such filters.
        MissingExtraError: If torch-pruning is not installed.
    """
    if not isinstance(ranks, Mapping | None):
        raise ConfigError(f"ranks: give the dict that feature_ranks returned, not a {type(ranks).__name__}")
    sets = channel_sets(model, example)
    if ranks is None:
        ranks = measure_ranks(model, [example], None)
    modules = dict(model.named_modules())
    for layer in known_layers(ranks, modules, "ranks"):
        size = num_channels(modules[layer], OUT)
        if size and tuple(ranks[layer].shape) != (size,):
            shape = tuple(ranks[layer].shape)
            kind = type(modules[layer]).__name__
            raise ConfigError(f"ranks: those of {layer} have the shape {shape}, and the {kind} has {size} filters")
    if not ranks:
        raise ConfigError("ranks: the dict is empty; leave it out to measure the ranks")
    filters = find_filters(sets, list(ranks))
    if not filters.groups:
        reasons = [f"\n  {layer}: its filters {reason}" for layer, reason in filters.obstacles.items()]
        more = f"\n  and {len(reasons) - _SHOWN} more layers" if len(reasons) > _SHOWN else ""
        shown = "".join(reasons[:_SHOWN]) + more
        raise ModelError(f"{type(model).__name__} has no filters that can be removed:{shown}")
    return filters


def _warn_of_equal_ranks(filters: Filters, ranks: Mapping[str, Tensor], rates: Sequence[float]) -> None:
    """Warn if layers lose filters by ranks that are all the same."""
    equal = [
        ", ".join(group.layers)
        for group, rate in zip(filters.groups, rates, strict=True)
        if group.dropped(ranks, rate) and len(group.scores(ranks).unique()) == 1
    ]
    if equal:
        more = f" and {len(equal) - _SHOWN} more layers" if len(equal) > _SHOWN else ""
        warnings.warn(
            f"all filters of {'; '.join(equal[:_SHOWN])}{more} have the same rank, so the ranks do not distinguish "
            "them, and the first ones are removed. Maps often have full rank where the activation sets no value to 0, "
            "as LeakyReLU, SiLU and Tanh. Give other scores of the filters as ranks=, such as the norms of their "
            "weights, or rate 0 for these layers",
            ShapeshiftWarning,
            stacklevel=4,  # the caller of hrank, which is wrapped
        )


def dropped_sets(filters: Filters, ranks: Mapping[str, Tensor], rates: Sequence[float]) -> list[ChannelSet]:
    """Return the channels that are dropped at the rates of the groups."""
    return [found for group, rate in zip(filters.groups, rates, strict=True) for found in group.dropped(ranks, rate)]


def cuts_of(model: nn.Module, dropped: Iterable[ChannelSet]) -> dict[str, dict[str, Kept]]:
    """Return the channels that each layer keeps without some sets of channels."""
    order = {path: index for index, (path, _) in enumerate([*model.named_modules(), *model.named_parameters()])}
    cuts: dict[str, dict[str, Kept]] = {}
    for (path, side), gone in sorted(_by_place(dropped).items(), key=lambda found: order[found[0][0]]):
        size = (
            model.get_parameter(path).shape[int(side)]
            if side.isdigit()
            else num_channels(model.get_submodule(path), side)
        )
        kept = tuple(index for index in range(size) if index not in gone)
        cuts.setdefault(path, {})[side] = Kept(size, kept)
    return cuts


def _entries(model: nn.Module, dropped: Iterable[ChannelSet]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return the entries of parameters that the output of dropped channels depends on: filters, biases and scales."""
    entries = {}
    for (path, side), gone in _by_place(dropped).items():
        if side.isdigit():
            entries[path] = int(side), tuple(sorted(gone))
        elif side == OUT:
            module = model.get_submodule(path)
            kind = kind_of(module)
            assert kind is not None, "channels are only looked for in layers of a known kind"
            for name, dim in kind.tensors[OUT].items():
                if isinstance(getattr(module, name), nn.Parameter):
                    entries[f"{path}.{name}"] = dim, tuple(sorted(gone))
    return entries


def _by_place(dropped: Iterable[ChannelSet]) -> dict[Place, set[int]]:
    """Return the dropped channels at each place."""
    places: dict[Place, set[int]] = defaultdict(set)
    for found in dropped:
        for place, indices in found.members.items():
            places[place].update(indices)
    return places


def _error_in_training(model: nn.Module, example: Inputs) -> Exception | None:
    """Return the error that a model raises in training mode; run only if some layers do not run in evaluation."""
    idle = {module for module in model.modules() if next(module.parameters(recurse=False), None) is not None}
    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for module in list(idle):
            stack.callback(module.register_forward_pre_hook(lambda called, _: idle.discard(called)).remove)
        example.run(model)
    if not idle:
        return None
    args, kwargs = tree_map_only(Tensor, lambda x: torch.cat([x, x]), (example.args, example.kwargs))
    device = device_of(model)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            Inputs(args, kwargs).run(copy.deepcopy(model).train())
    except Exception as error:
        return error
    return None


def _output_shapes(model: nn.Module, example: Inputs) -> list[tuple[int, ...]]:
    with evaluating(model), torch.no_grad():
        outputs = tree_leaves(example.run(model))
    return [tuple(leaf.shape) for leaf in outputs if isinstance(leaf, Tensor)]
