"""Laying out templates: where those of each weight lie in a group's store."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from shapeshift.generators.base import GeneratorOptions, Layout, LayoutT, Planner
from shapeshift.generators.description import GroupDescription, StoreSpan, WeightDescription
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.upsamplers import UPSAMPLERS, Upsampler
from shapeshift.weights import Weight

TEMPLATE_LIMIT = 16

# More templates approximate given weights better, but every training step pays for them.
FITTED_TEMPLATES = 4

#: How many coefficients weights need that combine the given numbers of templates.
CountCoefficients = Callable[[Sequence[int], GeneratorOptions], int]


@dataclass(frozen=True)
class TemplateLayout(Layout):
    """Where the templates of each weight lie in a store.

    Attributes:
        store_size: the number of entries in the store.
        combinations: one per weight. The coefficients of those with several templates come first, fewest templates
            first; those with one template have none.
        num_coefficients: the number of trainable parameters beside the store.
        tied_to: for each weight the index of the weight whose coefficients it has, its own for one weight of each set
            of tied ones; empty where every weight has coefficients of its own.
    """

    store_size: int
    combinations: tuple[Combination, ...]
    num_coefficients: int
    tied_to: tuple[int, ...] = ()

    @property
    def num_parameters(self) -> int:
        return self.store_size + self.num_coefficients

    @property
    def counts(self) -> list[int]:
        """The number of templates of each weight that has coefficients of its own, in the coefficients' order."""
        return [combination.count for index, combination in self._mixed if self.owner(index) == index]

    @property
    def rows(self) -> list[slice]:
        """Where the coefficients of each weight with several templates lie, in the order of their gains."""
        owners = [(index, found.count) for index, found in self._mixed if self.owner(index) == index]
        ends = itertools.accumulate(count for _, count in owners)
        own = {index: slice(end - count, end) for (index, count), end in zip(owners, ends, strict=True)}
        return [own[self.owner(index)] for index, _ in self._mixed]

    @property
    def _mixed(self) -> list[tuple[int, Combination]]:
        several = [(index, found) for index, found in enumerate(self.combinations) if found.count > 1]
        return sorted(several, key=lambda found: found[1].start)

    def owner(self, index: int) -> int:
        """Return the index of the weight whose coefficients a weight has."""
        return self.tied_to[index] if self.tied_to else index

    def describe(self, weights: Sequence[Weight]) -> GroupDescription:
        described = [
            WeightDescription(
                tuple(StoreSpan("store", found.start, found.stop) for found in combination.template_slices),
                upsampled=combination.size < weight.numel,
            )
            for weight, combination in zip(weights, self.combinations, strict=True)
        ]
        return GroupDescription({"store": self.store_size}, self.num_coefficients, tuple(described))

    def to_dict(self) -> dict[str, Any]:
        return {
            "store_size": self.store_size,
            "draws": [dataclasses.asdict(combination) for combination in self.combinations],
            "num_parameters": self.num_parameters,
            "ties": self.tied_to,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], weights: Sequence[Weight]) -> Self:
        store_size, combinations = fields["store_size"], tuple(Combination(**found) for found in fields["draws"])
        if len(combinations) != len(weights):
            raise ValueError(f"{len(combinations)} combinations of templates for {len(weights)} weights")
        used = max(combination.store_slice.stop for combination in combinations)
        if not used <= store_size <= 2 * used:
            raise ValueError(f"a store of {store_size} entries, of which the weights read {used}")
        num_coefficients = fields["num_parameters"] - store_size
        return cls(store_size, combinations, num_coefficients, tuple(fields.get("ties", ())))


class TemplatePlanner(Planner[TemplateLayout]):
    """Lays out as many templates for each weight as there is room for.

    Args:
        weights: the weights of the group.
        options: the config.
        count_coefficients: returns how many coefficients a generator needs.
    """

    def __init__(
        self, weights: Sequence[Weight], options: GeneratorOptions, count_coefficients: CountCoefficients
    ) -> None:
        super().__init__(weights, options)
        self.count_coefficients = count_coefficients
        self.upsampler = UPSAMPLERS[options.upsample]

    def template_limit(self, store_size: int) -> int:
        """Return how many templates of a store of the given size a weight may combine."""
        least = FITTED_TEMPLATES if self.options.init == "fit" else 1
        # A single template uses any store up to the weights' own size. In a larger one, each template serves two
        # weights on average.
        served = 1 if store_size <= self.total else (4 * store_size + self.total) // (2 * self.total)
        return self.options.max_templates or min(TEMPLATE_LIMIT, max(least, served))

    @functools.cached_property
    def smallest_store(self) -> int:
        """The size of the store at which the group has the fewest parameters."""
        if not any(self.upsampler.num_parameters(1, weight.shape) for weight in self.weights if weight.numel > 1):
            return 1
        # Upsamplers with parameters of their own need more of them the more they stretch.
        sizes = {math.ceil(math.exp(math.log(self.largest) * step / 256)) for step in range(257)}
        return min(sizes, key=lambda size: self.layout_of(size).num_parameters)

    @functools.cached_property
    def largest_store(self) -> int:
        """The most entries that the weights can use, each combining as many templates as it may."""
        return self.template_limit(TEMPLATE_LIMIT * self.total) * self.total

    @functools.cached_property
    def least(self) -> int:
        return self.layout_of(self.smallest_store).num_parameters

    @functools.cached_property
    def most(self) -> int:
        return self.layout_of(self.largest_store).num_parameters

    def lay_out(self, available: int) -> TemplateLayout:
        highest = self.template_limit(available)
        return best_layout(
            (self._fill(available, limit) for limit in range(highest, 0, -1)), self.least_used * available
        )

    def _fill(self, available: int, limit: int) -> TemplateLayout:
        """Find the largest store that fits; the parameters beside it depend on its size."""

        def fits(store_size: int) -> bool:
            return self.layout_of(store_size, limit).num_parameters <= available

        low, own = self.smallest_store, exact_size(self.weights)
        # Before any coefficient, a fit gives each weight entries of its own.
        if self.options.init == "fit" and fits(own):
            low = own
        high = max(low, min(available, self.largest_store))
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle):
                low = middle
            else:
                high = middle - 1
        return self.layout_of(low, limit)

    def layout_of(self, store_size: int, limit: int | None = None) -> TemplateLayout:
        """Lay out up to ``limit`` templates for each weight in up to ``store_size`` entries, all of which are read."""
        allowed = self.template_limit(store_size)
        most = allowed if limit is None else min(limit, allowed)
        combinations = place(self.weights, store_size, self.upsampler, most, apart=self.options.init == "fit")
        used = max(combination.store_slice.stop for combination in combinations)
        if used < store_size:  # leave out the entries that no weight reads
            return self.layout_of(used, limit)
        stretching = [
            self.upsampler.num_parameters(combination.size, weight.shape)
            for weight, combination in zip(self.weights, combinations, strict=True)
            if combination.size < weight.numel
        ]
        mixed = [combination.count for combination in combinations if combination.count > 1]
        coefficients = self.count_coefficients(mixed, self.options)
        return TemplateLayout(store_size, combinations, coefficients + sum(stretching) + self.num_zero_weights)


def best_layout(layouts: Iterable[LayoutT], enough: float) -> LayoutT:
    """Return the first layout with ``enough`` parameters, or the one with the most of them.

    Coefficients come in rows. Where the rest of a small budget is less than a row, fewer templates per weight use the
    budget better: the layouts are tried from the most templates to the fewest.
    """
    best: LayoutT | None = None
    for layout in layouts:
        best = layout if best is None else max(best, layout, key=lambda found: found.num_parameters)
        if best.num_parameters >= enough:
            break
    assert best is not None
    return best


def exact_size(weights: Sequence[Weight]) -> int:
    """Return how many entries a store needs to give any weights exactly; those that start at zero need none."""
    return max(1, sum(weight.numel for weight in weights if weight.std > 0))


def place(
    weights: Sequence[Weight], store_size: int, upsampler: type[Upsampler], most: int, apart: bool
) -> tuple[Combination, ...]:
    """Give each weight a span of a store, and in it as many templates as there is room for.

    The spans follow one another and start over at the end of the store. A weight larger than the store is stretched
    from it.

    Args:
        weights: The weights of the group.
        store_size: The number of entries in the store. The spans may leave some at its end out.
        upsampler: The upsampler that stretches.
        most: The most templates that one weight combines.
        apart: Whether the spans do not overlap where there is room for all of them, so that any weights can be given
            exactly.

    Returns:
        One combination per weight.
    """
    rooms = [store_size] * len(weights)
    if apart and store_size >= exact_size(weights):
        rooms = _split(weights, store_size)
    counts, sizes, spans, offsets, cursor = [], [], [], [], 0
    for weight, room in zip(weights, rooms, strict=True):
        numel = weight.numel
        size = upsampler.source_size(weight.shape, store_size) if numel > store_size else numel
        counts.append(max(1, min(most, -(-room // numel))))
        sizes.append(size)
        spans.append(min(counts[-1] * size, max(room, size)))
        offsets.append(min(cursor, store_size - spans[-1]))
        cursor = (offsets[-1] + spans[-1]) % store_size if room else cursor
    return tuple(map(Combination, offsets, counts, sizes, spans, _starts(counts)))


def _split(weights: Sequence[Weight], store_size: int) -> list[int]:
    """Split a store over weights in proportion to their sizes; those that start at zero get none of it."""
    ends = itertools.accumulate((weight.numel if weight.std > 0 else 0 for weight in weights), initial=0)
    total = exact_size(weights)
    return [store_size * end // total - store_size * begin // total for begin, end in itertools.pairwise(ends)]


def _starts(counts: Sequence[int]) -> list[int]:
    """Return where each weight's coefficients start: fewest templates first, those of a single template last."""
    starts, position = [0] * len(counts), 0
    for index in sorted(range(len(counts)), key=lambda index: (counts[index] == 1, counts[index])):
        starts[index] = position
        position += counts[index]
    return starts
