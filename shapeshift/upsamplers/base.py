"""The base class of upsamplers, and their registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from shapeshift.names import Registry


class Upsampler(nn.Module):
    """Stretch a source, a vector of ``size`` entries, into a weight of ``shape``, linearly in the source.

    An upsampler may have parameters of its own. They are created uninitialised, on torch's default device and in its
    default dtype.

    Args:
        size: The number of entries of the source, smaller than that of the weight.
        shape: The shape of the weight.

    Attributes:
        least_used: The least fraction of the available entries that :meth:`source_size` uses.
    """

    least_used: ClassVar[float] = 0.99

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.shape = tuple(shape)

    @classmethod
    def source_size(cls, shape: Sequence[int], available: int) -> int:
        """Return the size of the source for a weight of ``shape``, at most ``available``."""
        return available

    @classmethod
    def num_parameters(cls, size: int, shape: Sequence[int]) -> int:
        """Return the number of the upsampler's own parameters for a source of ``size`` entries and a ``shape``."""
        return 0

    def reset_parameters(self, rng: torch.Generator | None) -> None:
        """Set the parameters to starting values, drawn on the CPU so that a seed gives the same on every device."""

    def forward(self, source: Tensor) -> Tensor:
        """Stretch ``source``, of shape (size,), into the weight."""
        raise NotImplementedError

    def write(self, source: Tensor, weight: Tensor) -> None:
        """Stretch ``source`` into a weight that is there already, without a graph."""
        weight.copy_(self(source))

    def adjoint(self, grad: Tensor) -> Tensor:
        """Return the gradient of the source, of shape (size,), given that of the weight."""
        source = grad.new_zeros(self.size, requires_grad=True)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self(source), source, grad)
        return found


UPSAMPLERS: Registry[type[Upsampler]] = Registry("upsampler")
