"""Repetition in which each copy starts one entry later than the one before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from shapeshift.running.modes import is_eager
from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler

# The size of a source from which on copying in blocks is faster than gathering entries.
LONG_COPY = 4096


@UPSAMPLERS.register("tile")
class Tile(Upsampler):
    """Repeat the source until the weight is full; each copy starts one entry later in the source than the one before.

    Entry t of the weight is entry ``(t + t // size) % size`` of the source. Plain repetition gives a weight equal rows
    if a row is as long as a few copies, and neurons with equal rows stay equal in training. Here copies are out of step
    with the rows, unless there are more copies than entries. A source of any size can be tiled exactly.
    """

    def forward(self, source: Tensor) -> Tensor:
        numel = math.prod(self.shape)
        if self.size >= LONG_COPY and is_eager():
            tiled: Tensor = _Blocks.apply(source, numel)  # type: ignore[no-untyped-call]
        else:
            tiled = _tile(source, numel)
        return tiled.view(self.shape)

    def write(self, source: Tensor, weight: Tensor) -> None:
        if self.size < LONG_COPY:
            super().write(source, weight)
        else:
            _write_blocks(source, weight.view(-1))

    def adjoint(self, grad: Tensor) -> Tensor:
        return super().adjoint(grad) if self.size < LONG_COPY else _add_blocks(grad.reshape(-1), self.size)


def _tile(source: Tensor, numel: int) -> Tensor:
    """Write the source again and again, and drop one entry after each copy."""
    size = len(source)
    copies = -(-numel // size)
    rounds = -(-copies * (size + 1) // size)
    written = source.expand(rounds, size).reshape(-1)[: copies * (size + 1)]
    return written.view(copies, size + 1)[:, :size].reshape(-1)[:numel]


class _Blocks(torch.autograd.Function):
    """Tile in blocks; autograd would otherwise create a tensor of zeros as large as the weight for each block."""

    @staticmethod
    def forward(source: Tensor, numel: int) -> Tensor:
        tiled = source.new_empty(numel)
        _write_blocks(source, tiled)
        return tiled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.size = len(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _add_blocks(grad, ctx.size), None


def _write_blocks(source: Tensor, tiled: Tensor) -> None:
    for origin, target in _blocks(len(source), len(tiled)):
        tiled[target] = source[origin]


def _add_blocks(grad: Tensor, size: int) -> Tensor:
    total = grad.new_zeros(size)
    for origin, target in _blocks(size, len(grad)):
        total[origin] += grad[target]
    return total


def _blocks(size: int, numel: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the source and of the weight, for each copy the end of the source and then its beginning."""
    for copy, start in enumerate(range(0, numel, size)):
        first, end = copy % size, min(start + size, numel)
        turn = start + size - first
        yield slice(first, first + min(turn, end) - start), slice(start, min(turn, end))
        if turn < end:
            yield slice(0, end - turn), slice(turn, end)
