"""Weights put together from the numbers of their levels."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shapeshift.eager import is_eager
from shapeshift.generators.nesting import Block, Level, Shape


class Part(NamedTuple):
    """What a weight has of one block of a level.

    Attributes:
        vector: which of the weight's levels it is of.
        numbers: where in the level's vector the block lies.
        block: where in a weight that has all of it the block goes.
        seen: where in this weight.
    """

    vector: int
    numbers: slice
    block: Block
    seen: Block

    def read(self, vectors: Sequence[Tensor], kernel: Shape) -> Tensor:
        """View the part in vectors of the weight's levels."""
        whole = vectors[self.vector][self.numbers].view(self.block.rows, self.block.columns, *kernel)
        return whole if self.seen == self.block else whole[: self.seen.rows, : self.seen.columns]

    def find(self, weight: Tensor) -> Tensor:
        """View the part in the weight."""
        return weight[self.seen.top : self.seen.bottom, self.seen.left : self.seen.right]


@dataclass(frozen=True)
class Assembly:
    """How one weight is put together.

    Attributes:
        shape: the weight's.
        parts: what it has of its levels; they do not overlap, and leave nothing out.
        whole: for each of the levels, whether the weight has all of it.
    """

    shape: Shape
    parts: tuple[Part, ...]
    whole: tuple[bool, ...]

    @classmethod
    def of(cls, levels: Sequence[Level], shape: Shape) -> Assembly:
        """Find the parts of a weight of ``shape`` in the levels that it reads."""
        whole = (all(block.crop(shape) == block for block in level.blocks) for level in levels)
        return cls(shape, tuple(_parts(levels, shape)), tuple(whole))

    def __call__(self, *vectors: Tensor) -> Tensor:
        """Return the weight that vectors of its levels make, differentiably."""
        if len(self.parts) == 1:
            return self.parts[0].read(vectors, self.shape[2:])
        if is_eager():
            weight: Tensor = _PutTogether.apply(self, *vectors)  # type: ignore[no-untyped-call]
            return weight
        return functools.reduce(operator.add, (self._padded(part, vectors) for part in self.parts))

    def _padded(self, part: Part, vectors: Sequence[Tensor]) -> Tensor:
        rows, columns, *kernel = self.shape
        seen = part.seen
        margins = (seen.left, columns - seen.right, seen.top, rows - seen.bottom)
        return F.pad(part.read(vectors, self.shape[2:]), (0, 0) * len(kernel) + margins)


def _parts(levels: Sequence[Level], shape: Shape) -> Iterator[Part]:
    for index, level in enumerate(levels):
        begin = 0
        for block, size in zip(level.blocks, level.sizes, strict=True):
            seen = block.crop(shape)
            if seen.area:
                yield Part(index, slice(begin, begin + size), block, seen)
            begin += size


class _PutTogether(torch.autograd.Function):
    """Each part copied once, forward and backward, where autograd would copy the whole for each of them."""

    @staticmethod
    def forward(assembly: Assembly, *vectors: Tensor) -> Tensor:
        weight = vectors[0].new_empty(assembly.shape)
        for part in assembly.parts:
            part.find(weight).copy_(part.read(vectors, assembly.shape[2:]))
        return weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.assembly, *vectors = inputs
        ctx.sizes = [len(vector) for vector in vectors]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors = [
            grad.new_empty(size) if whole else grad.new_zeros(size)
            for whole, size in zip(ctx.assembly.whole, ctx.sizes, strict=True)
        ]
        for part in ctx.assembly.parts:
            part.read(vectors, grad.shape[2:]).copy_(part.find(grad))
        return None, *vectors
