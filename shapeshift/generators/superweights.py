"""SuperWeights: nested parts of weights, each a combination of templates that all weights with that part share."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from shapeshift.generators.base import (
    GENERATORS,
    GeneratorOptions,
    Layout,
    Planner,
    starting_at_zero,
    typical_std,
)
from shapeshift.generators.description import GroupDescription, StoreSpan, WeightDescription
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.combinations import Combination, scaled
from shapeshift.generators.mixing.layout import best_layout
from shapeshift.generators.mixing.nesting import Level, nest
from shapeshift.generators.mixing.store import empty_store, reader_stds
from shapeshift.generators.wavg import COEFFICIENT_NORM
from shapeshift.weights import Weight

TEMPLATE_LIMIT = 8


@dataclass(frozen=True)
class SuperWeightLayout(Layout):
    """How large the bank of templates of each level is.

    Attributes:
        banks: the number of entries of each bank, in the order of
            :func:`~shapeshift.generators.mixing.nesting.nest`.
        limit: the most templates of a bank that a SuperWeight combines.
        num_coefficients: the number of coefficients.
        zeros: the number of weights that start at zero, each of which has a learned factor.
    """

    banks: tuple[int, ...]
    limit: int
    num_coefficients: int
    zeros: int

    @classmethod
    def of(cls, weights: Sequence[Weight], levels: Sequence[Level], banks: Sequence[int], limit: int) -> Self:
        """Complete the layout of banks of the given sizes.

        Raises:
            ValueError: if the banks are not those of the levels, or one has too few entries or more than are read.
        """
        if limit < 1 or len(banks) != len(levels):
            raise ValueError(f"{len(banks)} banks for {len(levels)} levels, with up to {limit} templates combined")
        for bank, level in zip(banks, levels, strict=True):
            if not level.size <= bank <= _capacity(level, limit):
                raise ValueError(
                    f"a bank of {bank} entries for the level {level.shape}, of which {level.whole} weights combine "
                    f"up to {limit} templates of {level.size}"
                )
        coefficients = sum(_coefficients(level, bank, limit) for level, bank in zip(levels, banks, strict=True))
        return cls(tuple(banks), limit, coefficients, len(starting_at_zero(weights)))

    @property
    def num_parameters(self) -> int:
        return sum(self.banks) + self.num_coefficients + self.zeros

    def describe(self, weights: Sequence[Weight]) -> GroupDescription:
        described = [
            WeightDescription(
                tuple(
                    StoreSpan("store", template.start, template.stop)
                    for combination in combinations.values()
                    for template in combination.template_slices
                ),
                upsampled=False,
            )
            for combinations in self.combinations(_levels(weights), len(weights))
        ]
        return GroupDescription({"store": sum(self.banks)}, self.num_coefficients + self.zeros, tuple(described))

    def combinations(self, levels: Sequence[Level], num_weights: int) -> list[dict[int, Combination]]:
        """Return the combinations that each weight is made of, by the indices of its levels.

        The coefficients of the first level come first, and in each level those of the first weight. Combinations
        without coefficients come last.
        """
        found: list[dict[int, Combination]] = [{} for _ in range(num_weights)]
        offset, start, fixed = 0, 0, self.num_coefficients
        for index, (level, bank) in enumerate(zip(levels, self.banks, strict=True)):
            count = _count(level, bank, self.limit)
            span, steps = min(bank, count * level.size), max(1, level.whole - 1)
            for place, reader in enumerate(level.readers):
                # A weight with only a part of the level may not read all of its templates: the weights with all of
                # it share the bank among them.
                first = offset + place % level.whole * (bank - span) // steps
                if _coefficients(level, bank, self.limit):
                    found[reader][index] = Combination(first, count, level.size, span, start)
                    start += count
                else:
                    found[reader][index] = Combination(first, count, level.size, span, fixed)
                    fixed += count
            offset += bank
        return found

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], weights: Sequence[Weight]) -> Self:
        layout = cls(**{**fields, "banks": tuple(fields["banks"])})
        expected = cls.of(weights, _levels(weights), layout.banks, layout.limit)
        if expected != layout:
            raise ValueError(f"{layout} is for other weights than these, which need {expected}")
        return layout


class SuperWeightPlanner(Planner[SuperWeightLayout]):
    """Hands out templates to the banks in turn."""

    def __init__(self, weights: Sequence[Weight], options: GeneratorOptions) -> None:
        super().__init__(weights, options)
        self.levels = _levels(weights)
        self.limit = options.max_templates or TEMPLATE_LIMIT

    def layout_of(self, banks: Sequence[int], limit: int) -> SuperWeightLayout:
        """Complete the layout of banks of the given sizes."""
        return SuperWeightLayout.of(self.weights, self.levels, banks, limit)

    @functools.cached_property
    def least(self) -> int:
        """The size of one template for each level, and of the coefficients that go with it."""
        return self.layout_of([level.size for level in self.levels], 1).num_parameters

    @functools.cached_property
    def most(self) -> int:
        """The size of as many templates for each level as can be read, no two weights reading the same."""
        banks = [_capacity(level, self.limit) for level in self.levels]
        return self.layout_of(banks, self.limit).num_parameters

    def lay_out(self, available: int) -> SuperWeightLayout:
        layouts = (self._hand_out(available, limit) for limit in range(self.limit, 0, -1))
        return best_layout(layouts, self.least_used * available)

    def _hand_out(self, available: int, limit: int) -> SuperWeightLayout:
        """Hand out templates in turn, smallest level first, until none fits; the last one may be a part of one."""
        banks = [level.size for level in self.levels]
        left = available - self.layout_of(banks, limit).num_parameters
        # At first no more templates than there are weights to combine them, then as many as can be read.
        for turns in (1, limit):
            grown = True
            while grown:
                grown = False
                for index, level in enumerate(self.levels):
                    row = _coefficients(level, banks[index] + 1, limit) - _coefficients(level, banks[index], limit)
                    added = min(level.size, _capacity(level, turns) - banks[index], left - row)
                    if added > 0:
                        banks[index] += added
                        left -= added + row
                        grown = True
        return self.layout_of(banks, limit)


@GENERATORS.register("superweights")
class SuperWeights(MixedGenerator[SuperWeightLayout]):
    r"""Generate :math:`W_l` as nested SuperWeights :math:`s_{lj} = z_l g_l \sum_k a_{ljk} T_{jk}`.

    This is the construction of Teterwak et al. 2024 ("Learning to Compose SuperWeights for Neural Parameter Allocation
    Search"). Weights that differ only in rows and columns are cut into levels: the smallest shape, and the part that
    each larger one adds to it. For each level j there is a bank of templates. Each weight l that is large enough to
    have the level combines them with coefficients of its own, and the combinations are put side by side. Nothing is
    stretched, so that layers of different width, or of different networks (:class:`shapeshift.superweights.Family`),
    share the same entries at the same places. The gain :math:`g_l` is a constant that gives each weight its own
    starting deviation, whatever that of others in the bank. The factor :math:`z_l` of a weight that starts at zero is
    learned and starts at zero; that of any other weight is 1.

    Templates are handed out in turn, smallest level first, until the budget is used up: no more than there are weights
    to combine them while other levels have fewer, and the last one only in part, so that it overlaps with others. A
    SuperWeight combines up to ``max_templates`` templates, 8 by default; of a larger bank the weights read different
    ones. Each bank needs one template, so the least budget is about the size of the largest weight of each kind. A
    bank of one template with one reader has no coefficient. ``upsample`` is ignored.
    """

    layout_type = SuperWeightLayout
    coefficients: nn.Parameter | None
    sources: Tensor

    def __init__(self, weights: Sequence[Weight], layout: SuperWeightLayout) -> None:
        super().__init__(weights, layout)
        self.levels = _levels(weights)
        #: For each weight, the levels that it reads, with the templates that it combines for them.
        self.combinations = layout.combinations(self.levels, len(weights))
        self.assemblies = [
            Assembly.nested([self.levels[level] for level in found], list(found.values()), weight.shape)
            for weight, found in zip(weights, self.combinations, strict=True)
        ]
        combined = sum(combination.count for found in self.combinations for combination in found.values())
        with torch.device(weights[0].device):
            self.store = empty_store(sum(layout.banks))
            size = layout.num_coefficients
            self.register_parameter("coefficients", nn.Parameter(torch.empty(size)) if size else None)
            self.register_buffer("gains", torch.empty(combined))
            self.register_buffer("sources", torch.arange(layout.num_coefficients))
        self.to(weights[0].dtype)

    @property
    def coefficient_index(self) -> Tensor:
        """The position that each coefficient is read from: its own, or that of the one that it is tied to.

        State dicts hold it as ``sources``.
        """
        return self.sources

    @classmethod
    def planner(cls, weights: Sequence[Weight], options: GeneratorOptions) -> SuperWeightPlanner:
        return SuperWeightPlanner(weights, options)

    def scales(self) -> Tensor:
        if self.coefficients is None:
            return self.gains
        return scaled(self.coefficients[self.coefficient_index], self.gains)

    def gains_of(self, index: int) -> list[slice]:
        return [combination.row for combination in self.combinations[index].values()]

    def coefficient_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in (self.coefficients, self.zero_factors) if parameter is not None]

    def coefficient_gradients(self, gradients: Mapping[int, Tensor]) -> Tensor:
        """Return the gradient of the loss with respect to each coefficient as if none were tied.

        Args:
            gradients: The gradient of the loss with respect to each weight, of the weight's shape, by the weights'
                indices.

        Returns:
            The gradients, of shape (coefficients,); 0 for those of other weights.
        """
        scales = self.scales().detach().requires_grad_()
        weights = self.make(list(gradients), self.begin_with(scales))
        (found,) = torch.autograd.grad(weights, scales, list(gradients.values()))
        return (found * self.gains)[: self.layout.num_coefficients]

    def draw_parameters(self, rng: torch.Generator | None) -> None:
        drawn = torch.randn(sum(self.layout.banks), 1, generator=rng)
        for bank, std in zip(drawn.split(list(self.layout.banks)), _bank_stds(self.weights, self.levels), strict=True):
            bank *= std
        for piece, values in zip(self.store, drawn.split([len(piece) for piece in self.store]), strict=True):
            piece.copy_(values)
        if self.coefficients is not None:
            # Equal magnitudes with random signs: weights of the same templates start apart.
            signs = torch.randint(0, 2, self.coefficients.shape, generator=rng) * 2.0 - 1.0
            counts = [combination.count for combination in self._mixed()]
            lengths = [COEFFICIENT_NORM / math.sqrt(count) for count in counts for _ in range(count)]
            self.coefficients.copy_(signs * torch.tensor(lengths))
            self.coefficient_index.copy_(torch.arange(len(self.coefficient_index)))

    def reset_gains(self) -> None:
        # Each level of a weight counts equally, whatever the deviation of its bank. A row of coefficients is
        # COEFFICIENT_NORM long, and a template without one counts as 1.
        stds = _bank_stds(self.weights, self.levels)
        for found in self.combinations:
            for level, combination in found.items():
                length = COEFFICIENT_NORM if combination.start < self.layout.num_coefficients else 1.0
                self.gains[combination.row] = 1 / (length * stds[level])

    def _mixed(self) -> list[Combination]:
        """Return the combinations that have coefficients, in their order."""
        combinations = [combination for found in self.combinations for combination in found.values()]
        mixed = [found for found in combinations if found.start < self.layout.num_coefficients]
        return sorted(mixed, key=lambda combination: combination.start)


def _bank_stds(weights: Sequence[Weight], levels: Sequence[Level]) -> list[float]:
    """Return the standard deviation that the bank of each level starts with."""
    readers = [
        (slice(number, number + 1), weights[index].std, 1.0)
        for number, level in enumerate(levels)
        for index in level.readers
    ]
    stds: list[float] = reader_stds(len(levels), readers, typical_std(weights), torch.float64).tolist()
    return stds


def _levels(weights: Sequence[Weight]) -> list[Level]:
    return nest([weight.shape for weight in weights])


def _capacity(level: Level, limit: int) -> int:
    """Return the most entries of a bank that its readers can read."""
    return level.whole * limit * level.size


def _count(level: Level, bank: int, limit: int) -> int:
    """Return how many templates of a bank each reader combines."""
    return min(limit, -(-bank // level.size))


def _coefficients(level: Level, bank: int, limit: int) -> int:
    """Return how many coefficients the readers of a bank have."""
    count, readers = _count(level, bank, limit), len(level.readers)
    return 0 if count == readers == 1 else count * readers
