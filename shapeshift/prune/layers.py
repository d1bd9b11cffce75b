"""Kinds of layers: the entries that belong to a channel, and the removal of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

OUT, IN = "out", "in"


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer.

    Attributes:
        classes: The classes of its modules; derived classes are included.
        sizes: The attribute with the number of channels, for each side.
        tensors: The tensors that have a dimension of channels, with that dimension, for each side.
    """

    classes: tuple[type[nn.Module], ...]
    sizes: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, int]]


_SCALE = {"weight": 0, "bias": 0}
_NORM = {**_SCALE, "running_mean": 0, "running_var": 0}
_CONV_SIZES = {OUT: "out_channels", IN: "in_channels"}

KINDS = (
    LayerKind((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV_SIZES, {OUT: _SCALE, IN: {"weight": 1}}),
    LayerKind(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        _CONV_SIZES,
        {OUT: {"weight": 1, "bias": 0}, IN: {"weight": 0}},
    ),
    LayerKind((nn.Linear,), {OUT: "out_features", IN: "in_features"}, {OUT: _SCALE, IN: {"weight": 1}}),
    LayerKind((_NormBase,), {OUT: "num_features"}, {OUT: _NORM}),
    LayerKind((nn.GroupNorm,), {OUT: "num_channels"}, {OUT: _SCALE}),
    LayerKind((nn.LayerNorm,), {OUT: "normalized_shape"}, {OUT: _SCALE}),
    LayerKind((nn.PReLU,), {OUT: "num_parameters"}, {OUT: {"weight": 0}}),
    LayerKind((nn.Embedding,), {OUT: "embedding_dim"}, {OUT: {"weight": 1}}),
)


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a module; None if it is of no known kind, or has tensors that its kind does not know."""
    kind = next((kind for kind in KINDS if isinstance(module, kind.classes)), None)
    if kind is None or hasattr(module, "parametrizations"):
        return None
    known = {name for tensors in kind.tensors.values() for name in tensors} | {"num_batches_tracked"}
    held = {name for name, tensor in [*module._parameters.items(), *module._buffers.items()] if tensor is not None}
    several = isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1
    transposed_groups = getattr(module, "transposed", False) and module.groups != 1
    return None if held - known or several or transposed_groups else kind


def num_channels(module: nn.Module, side: str) -> int:
    """Return the number of channels on a side of a module; 0 if its kind is not known, or has no such side."""
    kind = kind_of(module)
    if kind is None or side not in kind.sizes:
        return 0
    size = getattr(module, kind.sizes[side])
    return int(size[0] if isinstance(size, tuple) else size)


def count_groups(module: nn.Module) -> int:
    """Return the number of groups of a grouped convolution or a group norm; 1 for any other module."""
    name = "num_groups" if isinstance(module, nn.GroupNorm) else "groups"
    return int(getattr(module, name, 1)) if kind_of(module) is not None else 1


def drops_groups(module: nn.Module) -> bool:
    """Return whether a grouped convolution loses whole groups, as a depthwise one does, or channels in every group.

    It loses whole groups if it has at least as many groups as a group has channels, which leaves more choice.
    """
    groups = count_groups(module)
    widest = max(num_channels(module, OUT), num_channels(module, IN))
    return IN in sides_of(module) and groups > 1 and groups >= widest // groups


def sides_of(module: nn.Module) -> set[str]:
    """Return the sides on which a module has channels; none if it is of no known kind."""
    kind = kind_of(module)
    return set(kind.sizes) if kind is not None else set()


def keep_channels(module: nn.Module, kept: Mapping[str, Sequence[int]]) -> None:
    """Keep some channels of a module of a known kind, in place.

    Args:
        module: The module. Its parameters are replaced by smaller ones, and its sizes are set.
        kept: The channels to keep on each side, in ascending order. A side that is left out stays whole.
    """
    kind = kind_of(module)
    assert kind is not None, "channels are only looked for in layers of a known kind"
    groups, whole_groups = count_groups(module), drops_groups(module)
    width = num_channels(module, IN) // groups
    for side, indices in kept.items():
        within: Sequence[int] = indices
        if side == IN and groups > 1:
            within = range(width) if whole_groups else [index for index in indices if index < width]
        for name, dim in kind.tensors[side].items():
            tensor = getattr(module, name)
            if tensor is not None:
                setattr(module, name, select_channels(tensor, dim, within))
    if whole_groups:
        module.groups = len(kept[IN]) // width  # type: ignore[assignment]
    for side, indices in kept.items():
        name = kind.sizes[side]
        setattr(module, name, (len(indices),) if isinstance(module, nn.LayerNorm) else len(indices))


def select_channels(tensor: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    """Return some channels of a tensor along a dimension; a parameter stays one, and keeps its ``requires_grad``."""
    with torch.no_grad():
        selected = tensor.index_select(dim, torch.tensor(indices, dtype=torch.int64, device=tensor.device))
    return nn.Parameter(selected, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else selected
