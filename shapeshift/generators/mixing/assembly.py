"""How a weight is assembled: rectangles of it, each filled with a combination of templates."""

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
    """A rectangle of a weight that is filled with one combination of templates, or with a part of one.

    Attributes:
        combination: the combination.
        first: the first entry of the combination that goes into the patch.
        block: the rectangle, in a weight that is large enough for all of it. Entries fill it row by row.
        visible: the part of the rectangle that lies in this weight.
        kernel: the number of entries at each row and column.
    """

    combination: Combination
    first: int
    block: Block
    visible: Block
    kernel: int

    @property
    def size(self) -> int:
        """The number of entries of the whole rectangle."""
        return self.block.area * self.kernel

    @property
    def is_whole(self) -> bool:
        """Whether all of the rectangle lies in the weight."""
        return self.visible == self.block

    def view_in(self, grid: Tensor) -> Tensor:
        """View the patch in a weight of shape (rows, columns, kernel)."""
        return grid[self.visible.top : self.visible.bottom, self.visible.left : self.visible.right]

    def crop(self, vector: Tensor) -> Tensor:
        """View the visible entries of the rectangle, given all of them as a vector."""
        whole = vector.view(self.block.rows, self.block.columns, self.kernel)
        return whole if self.is_whole else whole[: self.visible.rows, : self.visible.columns]

    def gather(self, grid: Tensor) -> Tensor:
        """Return the entries of the rectangle in a weight as a vector, with zeros outside of the weight."""
        found = self.view_in(grid)
        if not self.is_whole:
            lacking = self.block.columns - self.visible.columns, self.block.rows - self.visible.rows
            found = F.pad(found, (0, 0, 0, lacking[0], 0, lacking[1]))
        return found.reshape(-1)


@dataclass(frozen=True)
class Assembly:
    """A weight as patches.

    Attributes:
        rows: the number of rows of the weight.
        columns: the number of columns of the weight.
        kernel: the number of entries at each row and column.
        patches: rectangles that do not overlap and that cover the weight.
    """

    rows: int
    columns: int
    kernel: int
    patches: tuple[Patch, ...]

    @classmethod
    def of(cls, combination: Combination) -> Assembly:
        """Return the assembly of a weight that is one combination."""
        row = Block(0, 1, 0, combination.size)
        return cls(1, combination.size, 1, (Patch(combination, 0, row, row, 1),))

    @classmethod
    def nested(cls, levels: Sequence[Level], combinations: Sequence[Combination], shape: Shape) -> Assembly:
        """Return the assembly of a weight of ``shape`` that reads several levels, each by a combination of its own."""
        kernel = math.prod(shape[2:])
        patches = []
        for level, combination in zip(levels, combinations, strict=True):
            first = 0
            for block, size in zip(level.blocks, level.sizes, strict=True):
                visible = block.crop(shape)
                if visible.area:
                    patches.append(Patch(combination, first, block, visible, kernel))
                first += size
        return cls(shape[0], shape[1], kernel, tuple(patches))

    @property
    def numel(self) -> int:
        return self.rows * self.columns * self.kernel

    def grid(self, vector: Tensor) -> Tensor:
        """View the weight's entries, given as a vector, in rows and columns."""
        return vector.view(self.rows, self.columns, self.kernel)

    def join(self, vectors: Sequence[Tensor]) -> Tensor:
        """Assemble the weight from the vectors of its patches, by differentiable operations only."""
        if len(self.patches) == 1 and self.patches[0].is_whole:
            return vectors[0]
        padded = map(self._padded, self.patches, vectors)
        return functools.reduce(operator.add, padded).flatten()

    def _padded(self, patch: Patch, vector: Tensor) -> Tensor:
        visible = patch.visible
        margins = (visible.left, self.columns - visible.right, visible.top, self.rows - visible.bottom)
        return F.pad(patch.crop(vector), (0, 0, *margins))
