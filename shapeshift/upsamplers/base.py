"""What an upsampler is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from shapeshift.registry import Registry


class Upsampler(nn.Module):
    """Stretch a vector of ``size`` numbers into a weight of ``shape``, linearly in the vector.

    Args:
        size: how many numbers it stretches; less than the weight holds.
        shape: the weight's shape.
        index: the weight's place among those of its group, to tell their fixed patterns apart.
    """

    def __init__(self, size: int, shape: Sequence[int], index: int) -> None:
        super().__init__()
        self.size = size
        self.shape = tuple(shape)
        self.index = index

    @classmethod
    def source_size(cls, shape: Sequence[int], available: int) -> int:
        """Return how many of ``available`` numbers a weight of ``shape`` can be stretched from."""
        return available

    def reset_buffers(self) -> None:
        """Compute the fixed patterns, if there are any: at construction, and after ``to_empty``."""

    def forward(self, source: Tensor) -> Tensor:
        """Stretch ``source``, of shape (size,), into the weight."""
        raise NotImplementedError


UPSAMPLERS: Registry[type[Upsampler]] = Registry("upsampler")
