"""Tiling, each copy moved on by one number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("tile")
class Tile(Upsampler):
    """Repeat the numbers until the weight is full, each copy beginning one number further than the one before.

    Entry t holds number ``(t + t // size) % size``. Plain repetition gives a weight equal rows where a row is as long
    as a few copies, so that neurons start alike and stay so; here copies are out of step with the rows, until there are
    more copies than numbers. Any number of numbers can be tiled exactly.
    """

    def forward(self, source: Tensor) -> Tensor:
        numel = math.prod(self.shape)
        copies = -(-numel // self.size)
        starts = min(copies, self.size)
        # All starts are windows of the numbers written twice; a weight with more copies begins with the first again.
        moved = torch.cat([source, source[: starts - 1]]).unfold(0, self.size, 1)
        rounds = -(-copies // starts)
        return moved.expand(rounds, starts, self.size).reshape(-1)[:numel].view(self.shape)
