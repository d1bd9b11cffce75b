"""Tiling, each copy moved on by one number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from shapeshift.running.modes import is_eager
from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler

# Numbers in a copy from which on it is faster moved as a block than found number by number.
LONG_COPY = 4096


@UPSAMPLERS.register("tile")
class Tile(Upsampler):
    """Repeat the numbers until the weight is full, each copy beginning one number further than the one before.

    Entry t holds number ``(t + t // size) % size``. Plain repetition gives a weight equal rows where a row is as long
    as a few copies, so that neurons start alike and stay so; here copies are out of step with the rows, until there are
    more copies than numbers. Any number of numbers can be tiled exactly.
    """

    def forward(self, source: Tensor) -> Tensor:
        numel = math.prod(self.shape)
        if self.size >= LONG_COPY and is_eager():
            tiled: Tensor = _Blocks.apply(source, numel)  # type: ignore[no-untyped-call]
        else:
            tiled = _tile(source, numel)
        return tiled.view(self.shape)


def _tile(source: Tensor, numel: int) -> Tensor:
    """Write the numbers again and again, and leave out one after each copy."""
    size = len(source)
    copies = -(-numel // size)
    rounds = -(-copies * (size + 1) // size)
    written = source.expand(rounds, size).reshape(-1)[: copies * (size + 1)]
    return written.view(copies, size + 1)[:, :size].reshape(-1)[:numel]


class _Blocks(torch.autograd.Function):
    """The same in blocks, of which autograd would otherwise make zeros as large as the weight, over and over."""

    @staticmethod
    def forward(source: Tensor, numel: int) -> Tensor:
        tiled = source.new_empty(numel)
        for origin, target in _blocks(len(source), numel):
            tiled[target] = source[origin]
        return tiled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.size = len(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.new_zeros(ctx.size)
        for origin, target in _blocks(ctx.size, len(grad)):
            total[origin] += grad[target]
        return total, None


def _blocks(size: int, numel: int) -> Iterator[tuple[slice, slice]]:
    """Yield which numbers go where: the end of the numbers and then their begin, for each copy."""
    for copy, begin in enumerate(range(0, numel, size)):
        first, end = copy % size, min(begin + size, numel)
        turn = begin + size - first
        yield slice(first, first + min(turn, end) - begin), slice(begin, min(turn, end))
        if turn < end:
            yield slice(0, end - turn), slice(turn, end)
