"""What weights are mixed from: templates in a store, and where in a weight the mixed numbers go."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.nesting import Block, Level, Shape


class Patch(NamedTuple):
    """A rectangle of a weight.

    Attributes:
        draw: what its numbers are mixed from.
        begin: where in the vector of the draw they begin.
        block: where they go in a weight that has room for all of them, row by row.
        seen: where in this weight.
        kernel: how many numbers there are at each row and column.
    """

    draw: Combination
    begin: int
    block: Block
    seen: Block
    kernel: int

    @property
    def size(self) -> int:
        """How many numbers the part has, those for which there is no room included."""
        return self.block.area * self.kernel

    @property
    def is_whole(self) -> bool:
        """Whether the weight has room for all of it."""
        return self.seen == self.block

    def find(self, grid: Tensor) -> Tensor:
        """View the part in a weight of shape (rows, columns, kernel)."""
        return grid[self.seen.top : self.seen.bottom, self.seen.left : self.seen.right]

    def show(self, vector: Tensor) -> Tensor:
        """View what the weight has of the part's numbers, given as a vector."""
        whole = vector.view(self.block.rows, self.block.columns, self.kernel)
        return whole if self.is_whole else whole[: self.seen.rows, : self.seen.columns]

    def take(self, grid: Tensor) -> Tensor:
        """Return the part's numbers in a weight as a vector, with zeros for those for which there is no room."""
        found = self.find(grid)
        if not self.is_whole:
            lacking = self.block.columns - self.seen.columns, self.block.rows - self.seen.rows
            found = F.pad(found, (0, 0, 0, lacking[0], 0, lacking[1]))
        return found.reshape(-1)


@dataclass(frozen=True)
class Assembly:
    """How one weight is mixed.

    Attributes:
        rows: of the weight.
        columns: of the weight.
        kernel: how many numbers there are at each row and column.
        parts: rectangles that do not overlap, and leave nothing out.
    """

    rows: int
    columns: int
    kernel: int
    parts: tuple[Patch, ...]

    @classmethod
    def of(cls, draw: Combination) -> Assembly:
        """Return the mixture of a single vector."""
        row = Block(0, 1, 0, draw.size)
        return cls(1, draw.size, 1, (Patch(draw, 0, row, row, 1),))

    @classmethod
    def nested(cls, levels: Sequence[Level], draws: Sequence[Combination], shape: Shape) -> Assembly:
        """Return the mixture of a weight of ``shape`` that reads levels, each by a draw of its own."""
        kernel = math.prod(shape[2:])
        parts = []
        for level, draw in zip(levels, draws, strict=True):
            begin = 0
            for block, size in zip(level.blocks, level.sizes, strict=True):
                seen = block.crop(shape)
                if seen.area:
                    parts.append(Patch(draw, begin, block, seen, kernel))
                begin += size
        return cls(shape[0], shape[1], kernel, tuple(parts))

    @property
    def numel(self) -> int:
        return self.rows * self.columns * self.kernel

    def grid(self, vector: Tensor) -> Tensor:
        """View the weight's numbers, given as a vector, in rows and columns."""
        return vector.view(self.rows, self.columns, self.kernel)

    def join(self, vectors: Sequence[Tensor]) -> Tensor:
        """Put the weight together from the vectors of its parts, by differentiable operations only."""
        if len(self.parts) == 1 and self.parts[0].is_whole:
            return vectors[0]
        padded = map(self._padded, self.parts, vectors)
        return functools.reduce(operator.add, padded).flatten()

    def _padded(self, part: Patch, vector: Tensor) -> Tensor:
        seen = part.seen
        margins = (seen.left, self.columns - seen.right, seen.top, self.rows - seen.bottom)
        return F.pad(part.show(vector), (0, 0, *margins))
