"""The description of a group: where its weights come from, in terms that all generators share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StoreSpan(NamedTuple):
    """One template: the entries of a store from ``begin`` up to ``end``.

    Attributes:
        store: the name of the store.
        begin: the first entry.
        end: the entry after the last one.
    """

    store: str
    begin: int
    end: int


@dataclass(frozen=True)
class WeightDescription:
    """Where the entries of one weight come from.

    Attributes:
        templates: the templates that the weight combines.
        upsampled: whether the templates have fewer entries than the weight, and are stretched.
    """

    templates: tuple[StoreSpan, ...]
    upsampled: bool

    @property
    def sampling(self) -> str:
        """The way the weight is made; "down" combines templates, "up" stretches, "none" reads one as it is."""
        found = ["down"] * (len(self.templates) > 1) + ["up"] * self.upsampled
        return "+".join(found) or "none"


@dataclass(frozen=True)
class GroupDescription:
    """The shared parameters of one group, and where its weights come from.

    Attributes:
        stores: the number of parameters of each store, by name.
        coefficients: the number of trainable parameters beside the stores.
        weights: one description per weight, in the group's order.
    """

    stores: dict[str, int]
    coefficients: int
    weights: tuple[WeightDescription, ...]
