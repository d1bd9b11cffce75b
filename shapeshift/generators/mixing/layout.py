"""Placing the templates of a group's weights in its store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from shapeshift.generators.mixing.combinations import Combination
from shapeshift.upsamplers import Upsampler
from shapeshift.weights import Weight


@dataclass(frozen=True)
class Layout:
    """Where in a store each weight's templates lie.

    Attributes:
        store_size: numbers in the store.
        draws: one per weight. The coefficients of those that mix several templates come first, fewest templates
            first; those of the others are fixed at 1.
        num_parameters: trainable numbers, the store's and all others.
        ties: for each weight the index of the one whose coefficients it mixes with, its own for some weight of each
            set; empty where every weight has coefficients of its own.
    """

    store_size: int
    draws: tuple[Combination, ...]
    num_parameters: int
    ties: tuple[int, ...] = ()

    @property
    def counts(self) -> list[int]:
        """The number of templates of each weight that has coefficients of its own, in their order."""
        return [draw.count for index, draw in self._mixed if self.owner(index) == index]

    @property
    def rows(self) -> list[slice]:
        """Where the coefficients of each weight that mixes several templates lie, in the order of their gains."""
        owners = [(index, draw.count) for index, draw in self._mixed if self.owner(index) == index]
        ends = itertools.accumulate(count for _, count in owners)
        own = {index: slice(end - count, end) for (index, count), end in zip(owners, ends, strict=True)}
        return [own[self.owner(index)] for index, _ in self._mixed]

    @property
    def _mixed(self) -> list[tuple[int, Combination]]:
        several = [(index, draw) for index, draw in enumerate(self.draws) if draw.count > 1]
        return sorted(several, key=lambda found: found[1].start)

    def owner(self, index: int) -> int:
        """Return the index of the weight whose coefficients a weight mixes with."""
        return self.ties[index] if self.ties else index


def needed(weights: Sequence[Weight]) -> int:
    """Return how many numbers it takes to meet any weights exactly; those that start at zero read any numbers."""
    return max(1, sum(weight.numel for weight in weights if weight.std > 0))


def place(
    weights: Sequence[Weight], store_size: int, upsampler: type[Upsampler], most: int, apart: bool
) -> tuple[Combination, ...]:
    """Give each weight a span of a store, and in it as many templates as there is room for.

    The spans follow one another and start over at the end of the store. A weight larger than the store is stretched
    from it.

    Args:
        weights: what is mixed.
        store_size: numbers in the store; the spans may leave some at its end out.
        upsampler: stretches.
        most: the most templates that one weight mixes.
        apart: let no spans overlap if there is room for all of them beside each other, so that any weights can be met
            exactly.

    Returns:
        One draw per weight.
    """
    rooms = [store_size] * len(weights)
    if apart and store_size >= needed(weights):
        rooms = _split(weights, store_size)
    counts, sizes, spans, offsets, cursor = [], [], [], [], 0
    for weight, room in zip(weights, rooms, strict=True):
        stretched = weight.numel > store_size
        size = upsampler.source_size(weight.shape, store_size) if stretched else weight.numel
        counts.append(max(1, min(most, -(-room // weight.numel))))
        sizes.append(size)
        spans.append(min(counts[-1] * size, max(room, size)))
        offsets.append(min(cursor, store_size - spans[-1]))
        cursor = (offsets[-1] + spans[-1]) % store_size if room else cursor
    return tuple(map(Combination, offsets, counts, sizes, spans, _starts(counts)))


def _split(weights: Sequence[Weight], store_size: int) -> list[int]:
    """Split a store over weights in proportion to their sizes; those that start at zero get none of it."""
    ends = itertools.accumulate((weight.numel if weight.std > 0 else 0 for weight in weights), initial=0)
    total = needed(weights)
    return [store_size * end // total - store_size * begin // total for begin, end in itertools.pairwise(ends)]


def _starts(counts: Sequence[int]) -> list[int]:
    """Return where each weight's coefficients begin: those that are mixed first, fewest first, then the fixed ones."""
    starts, position = [0] * len(counts), 0
    for index in sorted(range(len(counts)), key=lambda index: (counts[index] == 1, counts[index])):
        starts[index] = position
        position += counts[index]
    return starts
