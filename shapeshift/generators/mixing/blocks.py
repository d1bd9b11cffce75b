"""Reading a ring: blocks of entries, each with a sign, in an order that follows from a seed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.mixture import Mixture, Sums


def order_of_blocks(count: int, whole: int, seed: int) -> np.ndarray[Any, Any]:
    """Permute the blocks of all weights, by sorting what a hash makes of their positions.

    Args:
        count: The number of blocks.
        whole: The number of blocks that are permuted; those after them keep their places.
        seed: The seed.

    Returns:
        The block of the endless ring that stands at each place, of shape (count,): integers that are equal on every
        machine.
    """
    order = np.arange(count)
    order[:whole] = np.argsort(_hash(whole, 2 * seed), kind="stable")
    return order


def signs_of_blocks(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Draw the sign of each block by a hash of its position: integers of 1 and -1, of shape (count,)."""
    return np.where(_hash(count, 2 * seed + 1) >> np.uint64(63) == 0, 1, -1).astype(np.int8)


def _hash(count: int, stream: int) -> np.ndarray[Any, Any]:
    """Hash the integers below ``count`` to 64 bits.

    The hash is the output of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
    figure 17). numpy's and torch's own generators may draw otherwise in another version.
    """
    golden = 0x9E3779B97F4A7C15
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(golden)
    state += np.uint64(int(_finish(np.array([(stream + 1) * golden % 2**64], np.uint64))[0]))
    return _finish(state)


def _finish(state: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray[Any, Any] = state ^ (state >> np.uint64(31))
    return found


class Cut(NamedTuple):
    """Entries of a weight that have the same place in each of their blocks.

    Attributes:
        rows: the blocks, by their places among those of all weights.
        entries: the entries of each block.
        place: where they go in the weight.
    """

    rows: slice
    entries: slice
    place: slice


@dataclass(frozen=True)
class Stretch:
    """The blocks that a weight lies in.

    Attributes:
        begin: the first of its entries among those of all weights.
        numel: the number of its entries.
        block: the number of entries in a block.
        gain: the position of its gain.
    """

    begin: int
    numel: int
    block: int
    gain: int

    @property
    def rows(self) -> slice:
        """The blocks, by their places among those of all weights."""
        return slice(self.begin // self.block, -(-(self.begin + self.numel) // self.block))

    @functools.cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The whole blocks, and those at both ends of which the weight has a part."""
        end, block = self.begin + self.numel, self.block
        found, low = [], self.begin
        while low < end:
            row, first = low // block, low % block
            high = end // block * block if first == 0 and low + block <= end else min(end, (row + 1) * block)
            entries = slice(first, min(block, first + high - low))
            found.append(Cut(slice(row, -(-high // block)), entries, slice(low - self.begin, high - self.begin)))
            low = high
        return tuple(found)


class RingMixture(Mixture[Stretch]):
    """A ring, and the blocks of it that weights are read from.

    Args:
        store: The ring's pieces in order, each of shape (n, 1).
        gains: The gains of the weights, of shape (weights,).
        order: The block of the ring at each place, of shape (places,), as int32.
        signs: The sign of each place, of shape (places,), as int8.
        block: The number of entries in a block.
        buffers: The memory that the weights are written to; None for fresh memory.
    """

    def __init__(
        self,
        store: Sequence[Tensor],
        gains: Tensor,
        order: Tensor,
        signs: Tensor,
        block: int,
        buffers: BufferPool | None = None,
    ) -> None:
        self._pattern = _Pattern(order, signs, block)
        super().__init__(self._pattern.read, [gains, *store], buffers)

    def prepare(self) -> None:
        self.blocks = self._pattern.blocks(_join(self.tensors[1:]))

    def write(self, vector: Tensor, reads: Stretch) -> None:
        scale, first = self._pattern.scale(self.tensors[0], reads), reads.rows.start
        for rows, entries, place in reads.cuts:
            part = self._pattern.shaped(vector[place], entries)
            torch.index_select(self._pattern.part(self.blocks, entries), 0, self._pattern.order[rows], out=part)
            part.mul_(scale[rows.start - first : rows.stop - first])

    def sums(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> Sums[Stretch]:
        return _RingSums(tensors, needed, self._pattern)


class _Pattern(NamedTuple):
    """What is read where: the tensors that follow from the seed."""

    order: Tensor
    signs: Tensor
    block: int

    def blocks(self, ring: Tensor) -> Tensor:
        """View a ring as blocks."""
        # Torch reads single entries of a vector many times faster than rows of one entry.
        return ring.view(-1) if self.block == 1 else ring.view(-1, self.block)

    def part(self, blocks: Tensor, entries: slice) -> Tensor:
        """View some entries of each block."""
        return blocks if self.block == 1 else blocks[:, entries]

    def shaped(self, vector: Tensor, entries: slice) -> Tensor:
        """View a part of a weight as the entries of each of its blocks."""
        return vector if self.block == 1 else vector.view(-1, entries.stop - entries.start)

    def scale(self, gains: Tensor, reads: Stretch) -> Tensor:
        """Return the factor of each block of a weight."""
        scale = self.signs[reads.rows] * gains[reads.gain]
        return scale if self.block == 1 else scale.unsqueeze(1)

    def read(self, tensors: Sequence[Tensor], reads: Sequence[Stretch]) -> list[Tensor]:
        """Make weights by differentiable tensor operations."""
        gains, *store = tensors
        blocks = self.blocks(_join(store))
        found = []
        for stretch in reads:
            rows = blocks.index_select(0, self.order[stretch.rows]) * self.scale(gains, stretch)
            found.append(rows.flatten().narrow(0, stretch.begin % self.block, stretch.numel))
        return found


class _RingSums(Sums[Stretch]):
    """The gradient of the ring, while those of the weights arrive."""

    def __init__(self, tensors: Sequence[Tensor], needed: Sequence[bool], pattern: _Pattern) -> None:
        super().__init__(tensors, needed)
        self._pattern = pattern
        self._total: Tensor | None = None

    def add(self, reads: Stretch, grad: Tensor) -> None:
        gains, *store = self.tensors
        if self._total is None:
            self._total = self._pattern.blocks(store[0].new_zeros(sum(map(len, store))))
        scale, first = self._pattern.scale(gains, reads), reads.rows.start
        for rows, entries, place in reads.cuts:
            part = self._pattern.shaped(grad[place], entries) * scale[rows.start - first : rows.stop - first]
            self._pattern.part(self._total, entries).index_add_(0, self._pattern.order[rows], part)

    def gradients(self) -> Sequence[Tensor | None]:
        store = self.tensors[1:]
        assert self._total is not None
        pieces = self._total.view(-1, 1).split(list(map(len, store)))
        return None, *(piece if needs else None for piece, needs in zip(pieces, self.needed[1:], strict=True))


def _join(store: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(store)) if len(store) > 1 else store[0]
