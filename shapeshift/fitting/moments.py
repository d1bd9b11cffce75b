"""Second moments of the inputs of layers, and the error maps that follow from them."""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.fitting.error_maps import ErrorMap

# Directions without any input count this fraction of the mean direction, since other data can have inputs there.
_DAMPING = 0.03


class Moment(abc.ABC):
    r"""The second moment :math:`S` of a layer's inputs, summed up over batches.

    An error :math:`D` of the weight changes the layer's outputs by :math:`\mathrm{tr}(D S D^\top)` in mean square.
    """

    @abc.abstractmethod
    def add(self, inputs: Tensor) -> None:
        """Add a batch of the layer's inputs."""

    @abc.abstractmethod
    def error_map(self) -> ErrorMap:
        """Return the map from a weight's error to one whose squared norm is the outputs' mean squared error."""


class LinearMoment(Moment):
    """The moment of a linear layer's inputs, of shape (in, in).

    Args:
        layer: A ``Linear``, or GPT-2's ``Conv1D``, whose weight is transposed.
    """

    def __init__(self, layer: nn.Module) -> None:
        weight = layer.get_parameter("weight")
        self.transposed = not isinstance(layer, nn.Linear)
        self.sum = _square(weight, weight.shape[0 if self.transposed else 1])

    def add(self, inputs: Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1]).to(self.sum.dtype)
        self.sum.addmm_(rows.T, rows)

    def error_map(self) -> ErrorMap:
        root = _root(self.sum)
        return (lambda error: root.T @ error) if self.transposed else (lambda error: error @ root)


class ConvolutionMoment(Moment):
    """The moment of a convolution's inputs, as a product of a matrix of channels and one of the kernel's positions.

    The full matrix, with (in * positions) rows, would often be larger than the weight. The matrix of channels has a
    block for each group of channels that the same filters read.

    Args:
        layer: A ``Conv1d``, ``Conv2d`` or ``Conv3d``.
    """

    def __init__(self, layer: nn.modules.conv._ConvNd) -> None:
        self.layer = layer
        per_group = layer.in_channels // layer.groups
        self.channels = _square(layer.weight, per_group).repeat(layer.groups, 1, 1)
        self.positions = _square(layer.weight, math.prod(layer.kernel_size))

    def add(self, inputs: Tensor) -> None:
        if inputs.dim() == len(self.layer.kernel_size) + 1:
            inputs = inputs[None]
        for sample in inputs.to(self.positions.dtype):  # one by one: patches hold each entry once per position
            grouped = sample.reshape(self.layer.groups, self.channels.shape[1], -1)
            self.channels.baddbmm_(grouped, grouped.mT)
            patches = self._patches(sample)
            self.positions.addmm_(patches, patches.T)

    def _patches(self, sample: Tensor) -> Tensor:
        """Return the inputs at each position of the kernel, of shape (positions, channels * output pixels)."""
        layer, dims = self.layer, len(self.layer.kernel_size)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        patches = F.pad(sample[None], layer._reversed_padding_repeated_twice, mode=mode)[0]
        for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
            patches = patches.unfold(axis + 1, gap * (size - 1) + 1, step)[..., ::gap]
        kernel_last = patches.reshape(math.prod(patches.shape[:-dims]), -1)
        return kernel_last.T

    def error_map(self) -> ErrorMap:
        channels, positions = _root(self.channels), _root(self.positions)
        groups = len(channels)

        def apply(error: Tensor) -> Tensor:
            split = error.reshape(groups, -1, channels.shape[1], len(positions))
            return torch.einsum("goik,gij,kl->gojl", split, channels, positions)

        return apply


class EmbeddingMoment(Moment):
    """The number of times that each row of an embedding is read.

    Args:
        layer: An ``Embedding``.
    """

    def __init__(self, layer: nn.Embedding) -> None:
        self.counts = torch.zeros(layer.num_embeddings, 1, device=layer.weight.device)

    def add(self, inputs: Tensor) -> None:
        self.counts += torch.bincount(inputs.reshape(-1), minlength=len(self.counts))[:, None]

    def error_map(self) -> ErrorMap:
        scale = (self.counts + _DAMPING * self.counts.mean()).sqrt()
        return lambda error: error * scale


def moment_of(layer: nn.Module) -> Moment | None:
    """Return the empty moment of a layer, or None for other types of layers."""
    if isinstance(layer, nn.Embedding):
        return EmbeddingMoment(layer)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ConvolutionMoment(layer)
    if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D":  # GPT-2's linear layer
        return LinearMoment(layer)
    return None


def _square(weight: Tensor, size: int) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.zeros(size, size, dtype=dtype, device=weight.device)


def _root(moment: Tensor) -> Tensor:
    """Return the Cholesky factor of a moment, or of several, after damping."""
    double = moment.double()
    mean = double.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(moment.shape[-1], dtype=double.dtype, device=moment.device)
    # Inputs that are all zero have no mean to scale the damping by.
    damping = torch.where(mean > 0, mean * _DAMPING, 1.0)
    root: Tensor = torch.linalg.cholesky(double + damping * eye)
    return root.to(moment.dtype)
