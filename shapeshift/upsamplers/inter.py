"""Bilinear interpolation by the rule of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("inter")
class Inter(Upsampler):
    """Enlarge a smaller weight bilinearly, as a matrix of (out, in * kh * kw) (Plummer et al. 2022, app. C).

    The source is read as a weight of the shape that ``in_shape`` chooses. Kernel positions are interpolated into each
    other, unlike in ``interpolate``. If the rule finds no shape, the source is stretched as one vector.

    The rule shrinks the first two axes in steps of 5% of their length. If both have 64 entries or more, it uses at
    least 80% of a store that holds a quarter of the weight or more. The worst step is that from 10% to 5% of two axes
    of 26 entries: rounding turns 3 entries of each into 1. This is the bound in ``least_used``.
    """

    least_used = 1 / 9

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(size, shape)
        grid = _grid(shape, size)
        self.rows, self.out = (grid[0], shape[0]) if grid else (1, 1)

    @classmethod
    def source_size(cls, shape: Sequence[int], available: int) -> int:
        grid = _grid(shape, available)
        return math.prod(grid) if grid else available

    def forward(self, source: Tensor) -> Tensor:
        matrix = source.view(1, 1, self.rows, -1)
        size = self.out, math.prod(self.shape) // self.out
        return F.interpolate(matrix, size=size, mode="bilinear").view(self.shape)


def in_shape(shape: Sequence[int], num_parameters: int, num_templates: int = 1) -> tuple[int, ...] | None:
    """Choose the shape of the templates that a weight is enlarged from (Plummer et al. 2022, app. C).

    The first two axes shrink together, to 95%, 90% and so on of their length, until the templates fit.

    Args:
        shape: The shape of the weight, (out, in, ...).
        num_parameters: The number of entries for all templates.
        num_templates: The number of templates.

    Returns:
        The shape of one template. It is the weight's own if that fits, and None if the first axis vanishes before the
        templates fit. The second axis can have length 0.
    """
    if num_templates * math.prod(shape) <= num_parameters:
        return tuple(shape)
    # Subtract step by step: the rule is defined on these floats, which rounding makes differ from 0.95 - 0.05 * step.
    share = 0.95
    while share > 0:
        smaller = *(round(extent * share) for extent in shape[:2]), *shape[2:]
        if num_templates * math.prod(smaller) <= num_parameters:
            return smaller if smaller[0] else None
        share -= 0.05
    return None


def _grid(shape: Sequence[int], available: int) -> tuple[int, ...] | None:
    """Return the shape of the smaller weight, or None if the rule finds none or an empty one."""
    grid = in_shape(shape, available)
    return grid if grid and all(grid) else None
