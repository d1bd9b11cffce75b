"""Tiling with fixed random signs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shapeshift.upsamplers.base import UPSAMPLERS
from shapeshift.upsamplers.repeat import Repeat


@UPSAMPLERS.register("tile")
class Tile(Repeat):
    """Repeat the numbers until the weight is full, each entry under a fixed random sign.

    The signs tell repetitions, and the layers that are stretched from one store, apart: entries that share a number
    are uncorrelated over random signs, so a stretched weight starts as rich as an ordinary one. Any number of
    numbers can be tiled exactly.
    """

    signs: Tensor

    def __init__(self, size: int, shape: Sequence[int], index: int) -> None:
        super().__init__(size, shape, index)
        self.register_buffer("signs", torch.empty(self.shape, dtype=torch.int8), persistent=False)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        if self.signs.is_meta:
            return
        # A generator of its own: the pattern is part of the method, the same in every run and on every device.
        generator = torch.Generator().manual_seed(self.index)
        with torch.no_grad():
            self.signs.copy_(
                torch.randint(0, 2, self.shape, generator=generator, dtype=torch.int8, device="cpu").mul_(2).sub_(1)
            )

    def forward(self, source: Tensor) -> Tensor:
        return super().forward(source) * self.signs
