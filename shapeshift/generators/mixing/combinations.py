"""Linear combinations of templates: which entries of a store a vector is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Combination:
    """Which numbers of a store one vector is mixed from.

    Attributes:
        offset: where the first template begins.
        count: how many templates are mixed.
        size: how many numbers a template has.
        span: how many numbers lie between the begin of the first and the end of the last; where that is less than
            ``count * size``, the templates overlap evenly.
        start: where the vector's coefficients begin among those of its group.
    """

    offset: int
    count: int
    size: int
    span: int
    start: int

    def __post_init__(self) -> None:
        if min(self.offset, self.start) < 0 or not 1 <= self.size <= self.span <= self.count * self.size:
            raise ValueError(f"templates that cannot be: {self}")
        if self.count > self.span:
            raise ValueError(f"more templates than they have numbers: {self}")

    @property
    def windows(self) -> list[slice]:
        """The templates, as slices of the store."""
        slack, steps = self.span - self.size, max(1, self.count - 1)
        begins = [self.offset + k * slack // steps for k in range(self.count)]
        return [slice(begin, begin + self.size) for begin in begins]

    @property
    def templates(self) -> tuple[int, int, int, int]:
        """What is equal for draws of the same templates, whatever their coefficients."""
        return self.offset, self.count, self.size, self.span

    @property
    def extent(self) -> slice:
        """All of the templates together, as one slice of the store."""
        return slice(self.offset, self.offset + self.span)

    @property
    def row(self) -> slice:
        """The vector's coefficients, as a slice of its group's."""
        return slice(self.start, self.start + self.count)
