"""Repetition."""

from __future__ import annotations

import math

from torch import Tensor

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("repeat")
class Repeat(Upsampler):
    """Repeat the source, one copy after the other, until the weight is full (Plummer et al. 2022, app. C).

    The authors' implementation drops the entries beyond a multiple of 9. Here every entry is repeated.
    """

    def forward(self, source: Tensor) -> Tensor:
        numel = math.prod(self.shape)
        copies = -(-numel // self.size)
        return source.expand(copies, self.size).reshape(-1)[:numel].view(self.shape)
