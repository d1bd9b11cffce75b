"""Bilinear interpolation as in the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("inter")
class Inter(Upsampler):
    """Enlarge a smaller weight bilinearly, as a matrix of (out, in * kh * kw) (Plummer et al. 2022, app. C).

    The numbers are read as a weight of the shape that ``in_shape`` chooses, so that kernel positions are interpolated
    into each other; ``interpolate`` keeps them apart. Where the rule finds no shape, the numbers are stretched as one
    vector.

    The rule shrinks the first two axes in steps of 5% of the weight's own. Where these are 64 or longer, it uses at
    least 80% of a store that holds a quarter of the weight or more. The step from 10% to 5% quarters the numbers, and
    rounding makes the most of it where both axes are 26: 3 entries become 1 in each. This is the bound in
    ``least_used``.
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
        shape: the weight's shape, (out, in, ...).
        num_parameters: how many numbers there are for all templates.
        num_templates: how many templates are needed.

    Returns:
        The shape of one template: the weight's own if that fits, None if the first axis vanishes before one fits. The
        second axis can have length 0, where it is a small part of a short one.
    """
    if num_templates * math.prod(shape) <= num_parameters:
        return tuple(shape)
    # Subtracted step by step: the rule is defined on these doubles, and rounding tells them from 0.95 - 0.05 * step.
    share = 0.95
    while share > 0:
        smaller = *(round(extent * share) for extent in shape[:2]), *shape[2:]
        if num_templates * math.prod(smaller) <= num_parameters:
            return smaller if smaller[0] else None
        share -= 0.05
    return None


def _grid(shape: Sequence[int], available: int) -> tuple[int, ...] | None:
    """Return the smaller weight that is enlarged; None where the rule ends with none, or with an empty one."""
    grid = in_shape(shape, available)
    return grid if grid and all(grid) else None
