"""SuperWeights: nested parts of weights, each mixed from templates that all weights with that part share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, Options, WeightGenerator, starting_at_zero
from shapeshift.generators.description import GroupDescription, WeightDescription, Window
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.nesting import Level, nest
from shapeshift.generators.mixing.product import mix
from shapeshift.generators.mixing.store import empty_store
from shapeshift.generators.wavg import COEFFICIENT_NORM
from shapeshift.weights import Weight

TEMPLATE_LIMIT = 8


@dataclass(frozen=True)
class Layout:
    """How large the bank of each level is.

    Attributes:
        banks: numbers in each bank, in the order of :func:`~shapeshift.generators.mixing.nesting.nest`.
        limit: how many templates of a bank a SuperWeight mixes at most.
        num_coefficients: how many coefficients there are.
        zeros: how many weights start at zero, each of them with a learned factor.
    """

    banks: tuple[int, ...]
    limit: int
    num_coefficients: int
    zeros: int


@GENERATORS.register("superweights")
class SuperWeights(WeightGenerator[Layout]):
    r"""Generate :math:`W_l` as nested SuperWeights :math:`s_{lj} = g_l \sum_k a_{ljk} T_{jk}`.

    This is the construction of Teterwak et al. 2024 ("Learning to Compose SuperWeights for Neural Parameter Allocation
    Search"). Weights that differ in rows and columns alone are cut into levels: the smallest shape, and what each
    larger one adds to it. For each level j there is a bank of templates. Each weight l that is large enough to have the
    level mixes them with coefficients of its own, and the mixtures are put side by side. Nothing is stretched, so that
    layers of different width, or of different networks (:class:`shapeshift.superweights.Family`), share the same
    numbers at the same places. The gain :math:`g_l` is a constant that gives each weight its own starting deviation,
    whatever that of others in the bank. A weight that starts at zero is multiplied by a learned number that starts at
    zero.

    Templates are handed out in turn, smallest level first, until the budget is used up: no more than there are weights
    to mix them while others have less, and the last one only in part, so that it overlaps with others. A SuperWeight
    mixes up to ``max_templates`` templates, 8 by default; of a larger bank the weights read different ones. Each bank
    needs one template, so the least budget is about the size of the largest weight of each kind. A bank of one template
    with one reader has no coefficient. ``upsample`` has no say.
    """

    sources: Tensor
    coefficients: nn.Parameter | None

    def __init__(self, weights: Sequence[Weight], layout: Layout) -> None:
        super().__init__(weights, layout)
        self.levels = _levels(weights)
        expected = _lay_out(weights, self.levels, layout.banks, layout.limit)
        if expected != layout:
            raise ValueError(f"{layout} is meant for other weights than these, which make it {expected}")
        #: For each weight, the levels that it reads with the templates that it mixes for them.
        self.draws = _draw(self.levels, layout, len(weights))
        self.mixtures = [
            Assembly.nested([self.levels[level] for level in draws], list(draws.values()), weight.shape)
            for weight, draws in zip(weights, self.draws, strict=True)
        ]
        mixed = sum(draw.count for draws in self.draws for draw in draws.values())
        with torch.device(weights[0].device):
            self.store = empty_store(sum(layout.banks))
            size = layout.num_coefficients
            self.register_parameter("coefficients", nn.Parameter(torch.empty(size)) if size else None)
            self.register_buffer("gains", torch.empty(mixed))
            # Where each coefficient is read from: its own place, or that of one that it is tied to.
            self.register_buffer("sources", torch.arange(layout.num_coefficients))
        self.to(weights[0].dtype)

    @classmethod
    def build(cls, weights: Sequence[Weight], layout: Layout, options: Options) -> SuperWeights:
        return cls(weights, layout)

    @classmethod
    def least(cls, weights: Sequence[Weight], options: Options) -> int:
        """Return the size of one template for each level, and of the coefficients that go with it."""
        levels = _levels(weights)
        return cls.size(_lay_out(weights, levels, [level.size for level in levels], 1))

    @classmethod
    def most(cls, weights: Sequence[Weight], options: Options) -> int:
        """Return the size of as many templates for each level as can be read, no two weights reading the same."""
        levels, limit = _levels(weights), options.max_templates or TEMPLATE_LIMIT
        return cls.size(_lay_out(weights, levels, [_capacity(level, limit) for level in levels], limit))

    @classmethod
    def plan(cls, weights: Sequence[Weight], available: int, options: Options) -> Layout:
        # Coefficients come in rows: where the rest of a small budget is less than a row, fewer of them use it better.
        levels, highest = _levels(weights), options.max_templates or TEMPLATE_LIMIT
        layouts = (_allocate(weights, levels, available, limit) for limit in range(highest, 0, -1))
        best = next(layouts)
        for layout in layouts:
            if cls.size(best) >= cls.least_used * available:
                break
            best = max(best, layout, key=cls.size)
        return best

    @staticmethod
    def size(layout: Layout) -> int:
        return sum(layout.banks) + layout.num_coefficients + layout.zeros

    @classmethod
    def describe(cls, weights: Sequence[Weight], layout: Layout) -> GroupDescription:
        described = [
            WeightDescription(
                tuple(Window("store", window.start, window.stop) for draw in draws.values() for window in draw.windows),
                upsampled=False,
            )
            for draws in _draw(_levels(weights), layout, len(weights))
        ]
        beside = layout.num_coefficients + layout.zeros
        return GroupDescription({"store": sum(layout.banks)}, beside, tuple(described))

    @staticmethod
    def layout_to_dict(layout: Layout) -> dict[str, Any]:
        return dataclasses.asdict(layout)

    @staticmethod
    def layout_from_dict(fields: dict[str, Any]) -> Layout:
        return Layout(**{**fields, "banks": tuple(fields["banks"])})

    def coefficient_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in (self.coefficients, self.zero_factors) if parameter is not None]

    def gains_of(self, index: int) -> list[slice]:
        return [draw.row for draw in self.draws[index].values()]

    def make(self, indices: Sequence[int], memory: BufferPool | None) -> list[Tensor]:
        return self._make(indices, self._scales(), memory)

    def coefficient_gradients(self, gradients: Mapping[int, Tensor]) -> Tensor:
        """Return the gradient of the loss with respect to each coefficient as if none were tied.

        Args:
            gradients: of the loss with respect to weights, each of its weight's shape, by the weights' indices.

        Returns:
            Numbers of shape (coefficients,); 0 for those of other weights.
        """
        scales = self._scales().detach().requires_grad_()
        made = zip(gradients, self._make(list(gradients), scales, None), strict=True)
        weights = [self._times_zero_factor(index, weight) for index, weight in made]
        (found,) = torch.autograd.grad(weights, scales, [gradients[index] for index in gradients])
        return (found * self.gains)[: self.layout.num_coefficients]

    def _scales(self) -> Tensor:
        """Return what each template is multiplied with: its coefficient, and the gain."""
        if self.coefficients is None:
            return self.gains
        mixed = self.coefficients[self.sources]
        return self.gains * torch.cat([mixed, mixed.new_ones(len(self.gains) - len(mixed))])

    def _make(self, indices: Sequence[int], scales: Tensor, memory: BufferPool | None) -> list[Tensor]:
        vectors = mix(list(self.store), scales, [self.mixtures[index] for index in indices], memory)
        return [vector.view(self.weights[index].shape) for index, vector in zip(indices, vectors, strict=True)]

    def draw_parameters(self, generator: torch.Generator | None) -> None:
        drawn = torch.randn(sum(self.layout.banks), 1, generator=generator)
        for bank, level in zip(drawn.split(list(self.layout.banks)), self.levels, strict=True):
            bank *= self._deviation(level)
        for piece, values in zip(self.store, drawn.split([len(piece) for piece in self.store]), strict=True):
            piece.copy_(values)
        if self.coefficients is not None:
            # Equal magnitudes with random signs, which keep weights of the same templates apart.
            signs = torch.randint(0, 2, self.coefficients.shape, generator=generator) * 2.0 - 1.0
            counts = [draw.count for draw in self._mixed()]
            lengths = [COEFFICIENT_NORM / math.sqrt(count) for count in counts for _ in range(count)]
            self.coefficients.copy_(signs * torch.tensor(lengths))
            self.sources.copy_(torch.arange(len(self.sources)))

    def _mixed(self) -> list[Combination]:
        """Return the draws that have coefficients, in their order."""
        draws = [draw for draws in self.draws for draw in draws.values()]
        return sorted((d for d in draws if d.start < self.layout.num_coefficients), key=lambda draw: draw.start)

    def _deviation(self, level: Level) -> float:
        """Return the deviation that the bank of a level starts with: that of the weights which read it.

        A gradient step on a bank then moves weights about as far as one on the weights themselves would.
        """
        squares = [self.weights[index].std ** 2 for index in level.readers if self.weights[index].std > 0]
        return math.sqrt(sum(squares) / len(squares)) if squares else self.typical_std

    def reset_gains(self) -> None:
        # Each level of a weight is to count alike, whatever the deviation of its bank. Coefficients are longer than
        # the ones that stand for none.
        deviations = [self._deviation(level) for level in self.levels]
        for index in range(len(self.weights)):
            for level, draw in self.draws[index].items():
                length = COEFFICIENT_NORM if draw.start < self.layout.num_coefficients else 1.0
                self.gains[draw.row] = 1 / (length * deviations[level])


def _levels(weights: Sequence[Weight]) -> list[Level]:
    return nest([weight.shape for weight in weights])


def _capacity(level: Level, limit: int) -> int:
    """Return the most numbers of a bank that its readers can read."""
    return level.whole * limit * level.size


def _count(level: Level, bank: int, limit: int) -> int:
    """Return how many templates of a bank each reader mixes."""
    return min(limit, -(-bank // level.size))


def _coefficients(level: Level, bank: int, limit: int) -> int:
    """Return how many coefficients the readers of a bank have."""
    count, readers = _count(level, bank, limit), len(level.readers)
    return 0 if count == readers == 1 else count * readers


def _lay_out(weights: Sequence[Weight], levels: Sequence[Level], banks: Sequence[int], limit: int) -> Layout:
    """Complete the layout of banks of the given sizes.

    Raises:
        ValueError: if the banks are not those of the levels, or hold too little or more than is read.
    """
    # A layout may come from a damaged file: it is looked at before memory is asked for.
    if limit < 1 or len(banks) != len(levels):
        raise ValueError(f"{len(banks)} banks, up to {limit} templates of which are mixed, for {len(levels)} levels")
    for bank, level in zip(banks, levels, strict=True):
        if not level.size <= bank <= _capacity(level, limit):
            raise ValueError(
                f"a bank of {bank} numbers for the level {level.shape}, {level.whole} readers of which mix "
                f"up to {limit} templates of {level.size}"
            )
    coefficients = sum(_coefficients(level, bank, limit) for level, bank in zip(levels, banks, strict=True))
    return Layout(tuple(banks), limit, coefficients, len(starting_at_zero(weights)))


def _allocate(weights: Sequence[Weight], levels: Sequence[Level], available: int, limit: int) -> Layout:
    """Hand out templates in turn, smallest level first, until none fits; the last one may be a part of one."""
    banks = [level.size for level in levels]
    left = available - SuperWeights.size(_lay_out(weights, levels, banks, limit))
    # At first no more templates than there are weights to mix them, then as many as can be read.
    for turns in (1, limit):
        grown = True
        while grown:
            grown = False
            for index, level in enumerate(levels):
                row = _coefficients(level, banks[index] + 1, limit) - _coefficients(level, banks[index], limit)
                added = min(level.size, _capacity(level, turns) - banks[index], left - row)
                if added > 0:
                    banks[index] += added
                    left -= added + row
                    grown = True
    return _lay_out(weights, levels, banks, limit)


def _draw(levels: Sequence[Level], layout: Layout, num_weights: int) -> list[dict[int, Combination]]:
    """Return which templates each weight mixes, by the indices of its levels.

    The coefficients of the first level come first, and in each level those of the first weight. What has none, and
    counts as one, comes last.
    """
    draws: list[dict[int, Combination]] = [{} for _ in range(num_weights)]
    begin, start, fixed = 0, 0, layout.num_coefficients
    for index, (level, bank) in enumerate(zip(levels, layout.banks, strict=True)):
        count = _count(level, bank, layout.limit)
        span, steps = min(bank, count * level.size), max(1, level.whole - 1)
        for place, reader in enumerate(level.readers):
            # Those that have a part of the level only cannot be relied on to read all of their templates.
            offset = begin + place % level.whole * (bank - span) // steps
            if _coefficients(level, bank, layout.limit):
                draws[reader][index] = Combination(offset, count, level.size, span, start)
                start += count
            else:
                draws[reader][index] = Combination(offset, count, level.size, span, fixed)
                fixed += count
        begin += bank
    return draws
