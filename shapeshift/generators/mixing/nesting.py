"""Weights as nested blocks: what each shape adds to the smaller ones of its kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Shape = tuple[int, ...]


class Block(NamedTuple):
    """A rectangle of a weight: the rows from ``top`` up to ``bottom``, the columns from ``left`` up to ``right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> int:
        return self.bottom - self.top

    @property
    def columns(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return max(0, self.rows) * max(0, self.columns)

    def crop(self, shape: Shape) -> Block:
        """Return the part of the block that a weight of a shape has."""
        return Block(self.top, min(self.bottom, shape[0]), self.left, min(self.right, shape[1]))


@dataclass(frozen=True)
class Level:
    """What one shape adds to all smaller ones of its kind.

    Attributes:
        shape: the shape that is complete with this level, (rows, columns, kernel).
        blocks: where in a weight the level's numbers go, in their order. The numbers of a block are in the order of its
            rows, columns and kernel.
        readers: the indices of the weights that have any of it, those that have all of it first.
        whole: how many have all of it.
    """

    shape: Shape
    blocks: tuple[Block, ...]
    readers: tuple[int, ...]
    whole: int

    @property
    def size(self) -> int:
        """How many numbers the level has."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """How many numbers each block has."""
        return [block.area * math.prod(self.shape[2:]) for block in self.blocks]


def nest(shapes: Sequence[Shape]) -> list[Level]:
    """Split weights into levels, so that each weight is made of the same numbers as a smaller one, and of some more.

    Weights are of one kind if their shapes differ in rows and columns alone. The shapes of a kind are taken by size,
    and each adds the part of its rectangle that no smaller one has; all rectangles share their top left corner. Where
    each shape holds the next smaller one, these are the columns that the rows at hand lack, and the further rows. Where
    it does not, as with (64, 256) and (256, 64), no number is made that no weight has.

    Args:
        shapes: (rows, columns, kernel) of each weight; the kernel may have any number of axes, or none.

    Returns:
        The levels, kind by kind, the smallest shape first. A weight reads the levels that it is a reader of.
    """
    levels = []
    for kind in sorted({shape[2:] for shape in shapes}):
        distinct = {shape for shape in shapes if shape[2:] == kind}
        smaller: list[Shape] = []
        for shape in sorted(distinct, key=lambda shape: (math.prod(shape), shape)):
            blocks = _uncovered(shape, smaller)
            parts = {
                index: sum(block.crop(other).area for block in blocks)
                for index, other in enumerate(shapes)
                if other[2:] == kind
            }
            readers = sorted((index for index in parts if parts[index]), key=lambda index: -parts[index])
            whole = sum(part == max(parts.values()) for part in parts.values())
            levels.append(Level(shape, blocks, tuple(readers), whole))
            smaller.append(shape)
    return levels


def _uncovered(shape: Shape, covered: Sequence[Shape]) -> tuple[Block, ...]:
    """Return the blocks of a shape's rectangle outside of other rectangles at the same corner, from top to bottom."""
    cuts = sorted({0, shape[0], *(min(shape[0], other[0]) for other in covered)})
    found: list[Block] = []
    for top, bottom in itertools.pairwise(cuts):
        left = max((other[1] for other in covered if other[0] > top), default=0)
        if found and found[-1].left == left:
            found[-1] = found[-1]._replace(bottom=bottom)
        elif left < shape[1]:
            found.append(Block(top, bottom, left, shape[1]))
    return tuple(found)
