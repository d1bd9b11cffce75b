"""What a generator tells about a group: where its weights come from, in terms that all generators share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Window(NamedTuple):
    """One template: the numbers from ``begin`` up to ``end`` of a store."""

    store: str
    begin: int
    end: int


@dataclass(frozen=True)
class WeightDescription:
    """Where the numbers of one weight come from.

    Attributes:
        templates: the windows that are mixed into it.
        upsampled: whether the mixture holds fewer numbers than the weight, and is stretched.
    """

    templates: tuple[Window, ...]
    upsampled: bool

    @property
    def sampling(self) -> str:
        """How the weight comes out of its store ("down" is mixed, "up" stretched, "none" read as it is)."""
        found = ["down"] * (len(self.templates) > 1) + ["up"] * self.upsampled
        return "+".join(found) or "none"


@dataclass(frozen=True)
class GroupDescription:
    """What one group holds, and where its weights come from.

    Attributes:
        stores: the number of shared numbers in each store, by the name of what holds them.
        coefficients: the number of trainable numbers beside the stores.
        weights: one description per weight, in the group's order.
    """

    stores: dict[str, int]
    coefficients: int
    weights: tuple[WeightDescription, ...]
