"""What an upsampler is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from shapeshift.names import Registry


class Upsampler(nn.Module):
    """Stretch a vector of ``size`` numbers into a weight of ``shape``, linearly in the vector.

    It may have trainable numbers of its own. They are created uninitialised, on torch's default device and in its
    default dtype.

    Args:
        size: how many numbers it stretches; less than the weight holds.
        shape: the weight's shape.

    Attributes:
        least_used: the least share of the available numbers that :meth:`source_size` uses.
    """

    least_used: ClassVar[float] = 0.99

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.shape = tuple(shape)

    @classmethod
    def source_size(cls, shape: Sequence[int], available: int) -> int:
        """Return how many of ``available`` numbers a weight of ``shape`` can be stretched from."""
        return available

    @classmethod
    def num_parameters(cls, size: int, shape: Sequence[int]) -> int:
        """Return how many trainable numbers of its own it has to stretch ``size`` numbers into ``shape``."""
        return 0

    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Set its trainable numbers to starting values, drawn on the CPU: one seed gives the same on every device."""

    def forward(self, source: Tensor) -> Tensor:
        """Stretch ``source``, of shape (size,), into the weight."""
        raise NotImplementedError


UPSAMPLERS: Registry[type[Upsampler]] = Registry("upsampler")
