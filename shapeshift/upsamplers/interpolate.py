"""Bilinear interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("interpolate")
class Interpolate(Upsampler):
    """Read the source as a small weight and enlarge its first two axes bilinearly (as Plummer et al. 2022, app. C).

    Kernel positions are not interpolated into each other: an (out, in, kh, kw) weight is enlarged from
    (out', in', kh, kw). If no such block uses nearly all of the source, (out', in' * kh * kw) is enlarged, and if
    neither does, the flat vector.
    """

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(size, shape)
        self.grid = _grid(self.shape, size)

    @classmethod
    def source_size(cls, shape: Sequence[int], available: int) -> int:
        # Repeat, since whole kernels can use nearly all of a smaller source and then leave out a few more entries.
        while (used := math.prod(_grid(shape, available))) < available:
            available = used
        return available

    def forward(self, source: Tensor) -> Tensor:
        rows, columns, inner = self.grid
        out = self.shape[0] if rows > 1 else 1
        into = math.prod(self.shape) // (out * inner)
        planes = source.view(rows, columns, inner).permute(2, 0, 1)[None]
        return F.interpolate(planes, size=(out, into), mode="bilinear")[0].permute(1, 2, 0).reshape(self.shape)


def _grid(shape: Sequence[int], available: int) -> tuple[int, int, int]:
    """Choose the (rows, columns, inner) block to enlarge: whole kernels if they use 99.7% of the source."""
    for inner in (math.prod(shape[2:]), 1):
        out, into = shape[0], math.prod(shape[1:]) // inner
        cells = available // inner
        ideal = math.sqrt(cells * out / into)
        candidates = range(max(1, math.floor(ideal * 0.7)), min(out, cells, math.ceil(ideal * 1.4)) + 1)
        grids = [(rows, min(into, cells // rows), inner) for rows in candidates]
        best = max(grids, key=math.prod, default=(0, 0, 0))
        if math.prod(best) >= 0.997 * available:
            return best
    return 1, available, 1
