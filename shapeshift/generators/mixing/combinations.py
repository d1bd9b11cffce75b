"""Linear combinations of templates: which entries of a store a vector is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Templates:
    """Equally long slices of a store, evenly spaced.

    Attributes:
        offset: the first entry of the first template.
        count: the number of templates.
        size: the number of entries in a template.
        span: the number of entries from the first of the first template to the last of the last one; where it is less
            than ``count * size``, the templates overlap.
    """

    offset: int
    count: int
    size: int
    span: int


@dataclass(frozen=True)
class Combination:
    """A vector as a linear combination of templates.

    Attributes:
        offset: as in :class:`Templates`.
        count: as in :class:`Templates`.
        size: as in :class:`Templates`.
        span: as in :class:`Templates`.
        start: the position of the vector's first coefficient among those of its group.

    Raises:
        ValueError: if no such templates exist.
    """

    offset: int
    count: int
    size: int
    span: int
    start: int

    def __post_init__(self) -> None:
        if min(self.offset, self.start) < 0 or not 1 <= self.size <= self.span <= self.count * self.size:
            raise ValueError(f"no such templates exist: {self}")
        if self.count > self.span:
            raise ValueError(f"there are more templates than entries: {self}")

    @property
    def templates(self) -> Templates:
        """The templates; equal for combinations that differ in their coefficients only."""
        return Templates(self.offset, self.count, self.size, self.span)

    @property
    def template_slices(self) -> list[slice]:
        """Each template as a slice of the store."""
        slack, steps = self.span - self.size, max(1, self.count - 1)
        firsts = [self.offset + k * slack // steps for k in range(self.count)]
        return [slice(first, first + self.size) for first in firsts]

    @property
    def store_slice(self) -> slice:
        """The slice of the store that holds all of the templates."""
        return slice(self.offset, self.offset + self.span)

    @property
    def row(self) -> slice:
        """The slice of the group's coefficients that are the vector's."""
        return slice(self.start, self.start + self.count)


def scaled(coefficients: Tensor, gains: Tensor) -> Tensor:
    """Multiply coefficients by gains.

    Args:
        coefficients: The learned coefficients, of shape (C,).
        gains: The gains of all templates, of shape (G,) with G >= C. Those after the first C belong to combinations of
            a single template, which have no coefficient: it counts as 1.

    Returns:
        The factor of each template, of shape (G,).
    """
    if not len(coefficients):
        return gains
    return gains * torch.cat([coefficients, coefficients.new_ones(len(gains) - len(coefficients))])
