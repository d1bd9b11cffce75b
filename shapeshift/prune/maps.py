"""Feature maps: the output of each filter in the form that the next layer reads, found while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from shapeshift.running.batches import Inputs
from shapeshift.running.channels import channel_axis

FILTERED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

# Operations at which a filter's output is measured. Gates (sigmoid, hardsigmoid) are left out: their product with the
# gated tensor is followed instead.
_ACTIVATIONS = {"relu", "gelu", "silu", "hardswish", "hardtanh", "tanh", "elu", "leaky_relu", "mish", "softplus"}
_ACTIVATIONS |= {"prelu", "_prelu_kernel", "threshold", "log_sigmoid_forward"}
# Operations that make maps smaller within a network. Pooling over the whole image leaves no map, and is left out.
_POOLS = {"avg_pool2d", "max_pool2d_with_indices"}
# Operations that read a map as it is: those of the next layer, or a change of layout before it.
_READERS = {"convolution", "mm", "addmm", "bmm", "baddbmm", "view", "_unsafe_view", "permute", "transpose"}

Measure = Callable[[list[str], Tensor], None]


@dataclass(eq=False)
class _Filters:
    """The output of one call of a layer, until its maps are measured.

    Attributes:
        layer: The dotted path of the layer.
        channel_dim: The dimension of the channels.
        latest: The tensor that holds the output by now, and the first and the last channel (exclusive) in it.
        done: Whether the maps were measured.
    """

    layer: str
    channel_dim: int
    latest: tuple[Tensor, int, int]
    done: bool = False


@dataclass(eq=False)
class _Tag:
    """The range of channels of a tensor that a layer's output has."""

    filters: _Filters
    start: int
    stop: int


@dataclass
class _State:
    """The state of one forward pass.

    Attributes:
        grid: The rows and columns of the last convolution's output.
        channels: The number of channels of the last convolution's output.
        pending: The outputs that were not measured yet.
    """

    grid: tuple[int, int] | None = None
    channels: int | None = None
    pending: list[_Filters] = field(default_factory=list)


class MapTracer(TorchDispatchMode):
    """Finds feature maps in a forward pass, and passes them on.

    The output of a convolution or linear layer is followed through operations that keep its channels apart (norms,
    sums, products, concatenations) to the first activation. Where there is none before the next layer, it is measured
    as that layer reads it. Lin et al. 2020 take the maps at the same places: after ReLU in VGG, after the sum of a
    block in ResNet, after the concatenation and ReLU in DenseNet, and the parts of a module's output in GoogLeNet.

    Args:
        layers: The layers, by dotted path. Modules that are neither convolutions nor linear layers are measured at
            their output.
        measure: A function that is called with the paths of layers and their common maps, of shape (N, C, H, W).

    Attributes:
        order: The convolutions and linear layers that ran, in the order of their first runs.
    """

    def __init__(self, layers: dict[str, nn.Module], measure: Measure) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layers = layers
        self._measure = measure
        self._tags: Any = WeakTensorKeyDictionary()  # type: ignore[no-untyped-call]
        self._state = _State()
        self.order: dict[str, None] = {}

    @torch.no_grad()
    def run(self, model: nn.Module, inputs: Inputs) -> None:
        """Run one forward pass."""
        self._state = _State()
        with ExitStack() as stack:
            for path, module in self._layers.items():
                stack.callback(module.register_forward_hook(self._hook(path)).remove)
            with self:
                inputs.run(model)
        for filters in list(self._state.pending):
            tensor, start, stop = filters.latest
            self._finish(tensor, [_Tag(filters, start, stop)])

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple | list) else output
            if not isinstance(tensor, Tensor):
                return
            if not isinstance(module, FILTERED):
                axis = channel_axis(tensor.shape, self._state.channels) if tensor.ndim == 4 else -1
                maps = as_maps(tensor, axis, self._state.grid)
                if maps is not None:
                    self._measure([path], maps)
                return
            if tensor.ndim < 3:
                return
            self.order.setdefault(path)
            channel_dim = tensor.ndim - 1 if isinstance(module, nn.Linear) else 1
            channels = tensor.shape[channel_dim]
            filters = _Filters(path, channel_dim, (tensor, 0, channels))
            self._state.pending.append(filters)
            self._tags[tensor] = [_Tag(filters, 0, channels)]

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Three steps: measure the outputs that this operation reads as a layer would; run it; then move the tags of its
        # arguments to its result, or measure the result if the operation is an activation.
        name = func.overloadpacket.__name__
        if name in _READERS:
            for tensor in args:
                if isinstance(tensor, Tensor) and tensor in self._tags:
                    self._finish(tensor, self._tags[tensor])
        # Read the tags before the call: an operation in place returns its argument.
        carried = self._carried(name, args)
        result = func(*args, **(kwargs or {}))
        output = result[0] if isinstance(result, tuple | list) and result else result
        if name == "convolution" and output.ndim == 4:
            _, self._state.channels, *grid = output.shape
            self._state.grid = (grid[0], grid[1])
        if carried and isinstance(output, Tensor) and name not in _READERS:
            tags = [tag for shape, tag in carried if shape in (None, output.shape)]
            if name.rstrip("_") in _ACTIVATIONS:
                self._finish(output, tags)
            elif tags:
                self._tags[output] = tags
                for tag in tags:
                    tag.filters.latest = (output, tag.start, tag.stop)
        return result

    def _carried(self, name: str, args: Sequence[Any]) -> list[tuple[torch.Size | None, _Tag]]:
        """List the tags that an operation may pass on, each with the shape that the result must have; None for any."""
        if name == "cat":
            return [(None, tag) for tag in self._concatenated(args[0], args[1] if len(args) > 1 else 0)]
        tensors = [tensor for tensor in args if isinstance(tensor, Tensor) and tensor in self._tags]
        found = [
            (None if name in _POOLS else tensor.shape, tag)
            for tensor in tensors
            for tag in self._tags[tensor]
            if not tag.filters.done
        ]
        # The product x * gate(x) has the same tag twice.
        return list({id(tag.filters): (shape, tag) for shape, tag in reversed(found)}.values())[::-1]

    def _concatenated(self, tensors: Sequence[Tensor], dim: int) -> list[_Tag]:
        tags, offset = [], 0
        for tensor in tensors:
            for tag in self._tags.get(tensor, []):
                if not tag.filters.done and dim % tensor.ndim == tag.filters.channel_dim:
                    tags.append(_Tag(tag.filters, offset + tag.start, offset + tag.stop))
            offset += tensor.shape[dim]
        return tags

    def _finish(self, tensor: Tensor, tags: Sequence[_Tag]) -> None:
        """Measure the maps of a tensor, once for all layers that have them in common."""
        open_tags = [tag for tag in tags if not tag.filters.done]
        for start, stop, dim in dict.fromkeys((tag.start, tag.stop, tag.filters.channel_dim) for tag in open_tags):
            same = [tag.filters for tag in open_tags if (tag.start, tag.stop) == (start, stop)]
            same.sort(key=self._state.pending.index)
            maps = as_maps(tensor.narrow(dim, start, stop - start), dim, self._state.grid)
            for filters in same:
                filters.done = True
                self._state.pending.remove(filters)
            if maps is not None:
                self._measure([filters.layer for filters in same], maps)


def as_maps(tensor: Tensor, channel_dim: int, grid: tuple[int, int] | None) -> Tensor | None:
    """Arrange a layer's output as feature maps.

    Args:
        tensor: The output, of shape (N, C, H, W) or (N, H, W, C), or tokens of shape (N, T, C), of which the last H * W
            are those of the grid.
        channel_dim: The dimension of C.
        grid: H and W of the last convolution before the tokens; None without one. Tokens may have been merged since,
            which halves both.

    Returns:
        Maps of shape (N, C, H, W); None if the output has none.
    """
    if tensor.ndim == 4:
        return tensor.movedim(channel_dim, 1)
    if tensor.ndim != 3 or channel_dim not in (-1, 2) or grid is None:
        return None
    height, width = grid
    tokens = tensor.shape[1]
    while height * width > max(1, tokens):
        height, width = -(-height // 2), -(-width // 2)
    return tensor[:, tokens - height * width :].mT.unflatten(2, (height, width)) if tokens else None
