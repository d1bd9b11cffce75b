"""Weighted averaging of templates, and stretching where the store is too small for one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, Options, ParameterGroup
from shapeshift.generators.description import GroupDescription, WeightDescription, Window
from shapeshift.generators.memory import WeightMemory
from shapeshift.generators.mixing import Draw, mix
from shapeshift.upsamplers import UPSAMPLERS, Upsampler
from shapeshift.weights import Weight, mean_and_std

_TEMPLATE_LIMIT = 16

# A store is held in pieces of at most this many numbers. Memory allocators hand blocks of this size out again, and
# take larger ones from the system afresh each time: on a CPU, an optimizer's step on one large tensor takes several
# times as long as on its pieces.
_PIECE_SIZE = 2**20

# The length that a weight's row of coefficients starts with; the gain takes it back. A gradient step on coefficients
# moves whole templates, so under SGD rows of length one learn far faster than the store does. Longer rows slow them
# down by the square of the length: `python -m benchmarks.starting_values` compares lengths.
_COEFFICIENT_NORM = 5.0


@dataclass(frozen=True)
class Layout:
    """Where in a store each weight's templates lie.

    Attributes:
        store_size: numbers in the store.
        draws: one per weight.
        num_coefficients: learned coefficients; the draws' coefficients beyond them are fixed at 1.
    """

    store_size: int
    draws: tuple[Draw, ...]
    num_coefficients: int


@GENERATORS.register("wavg")
class WeightedAverage(ParameterGroup[Layout]):
    r"""Generate :math:`W_l = g_l U_l(\sum_k a_{lk} T_{lk})` (Plummer et al. 2022, eq. 1, "WAvg").

    The templates :math:`T_{lk}` are windows of the group's store, the coefficients :math:`a_{lk}` are learned, and the
    gain :math:`g_l` is a constant that gives the weight its starting standard deviation. A weight with room for one
    template only has no coefficient, unless it starts at zero. :math:`U_l` stretches where not even one template
    fits, and is the identity elsewhere.
    """

    gains: Tensor
    coefficients: nn.Parameter | None

    def __init__(self, weights: Sequence[Weight], layout: Layout, upsample: str) -> None:
        super().__init__(weights, layout)
        dtype, device = weights[0].dtype, weights[0].device
        used = max(draw.offset + draw.span for draw in layout.draws)
        if layout.store_size != used:
            raise ValueError(f"a store of {layout.store_size} numbers of which the weights use {used}")
        pieces = math.ceil(layout.store_size / _PIECE_SIZE)
        sizes = [
            layout.store_size * (piece + 1) // pieces - layout.store_size * piece // pieces for piece in range(pieces)
        ]
        # Columns, not vectors: optimizers that spare one-dimensional parameters from weight decay (timm's do) are to
        # decay the store and to spare the coefficients, and FSDP shards the first axis.
        self.store = nn.ParameterList(torch.empty(size, 1, dtype=dtype, device=device) for size in sizes)
        coefficients = torch.empty(layout.num_coefficients, dtype=dtype, device=device)
        self.register_parameter("coefficients", nn.Parameter(coefficients) if layout.num_coefficients else None)
        num_gains = sum(draw.count for draw in layout.draws)
        self.register_buffer("gains", torch.empty(num_gains, dtype=dtype, device=device))
        with torch.device(device):
            self.upsamplers = nn.ModuleDict(
                {
                    str(index): UPSAMPLERS[upsample](draw.size, weight.shape, index)
                    for index, (weight, draw) in enumerate(zip(weights, layout.draws, strict=True))
                    if draw.size < weight.numel
                }
            )

    @classmethod
    def build(cls, weights: Sequence[Weight], layout: Layout, options: Options) -> WeightedAverage:
        return cls(weights, layout, options.upsample)

    @classmethod
    def least(cls, weights: Sequence[Weight], options: Options) -> int:
        return cls.size(_lay_out(weights, 1, options))

    @classmethod
    def most(cls, weights: Sequence[Weight], options: Options) -> int:
        return cls.size(_lay_out(weights, _largest_store(weights, options), options))

    @classmethod
    def plan(cls, weights: Sequence[Weight], available: int, options: Options) -> Layout:
        # The more the store holds, the more coefficients the weights need: look for the largest store that fits.
        low, high = 1, min(available, _largest_store(weights, options))
        while low < high:
            middle = (low + high + 1) // 2
            if cls.size(_lay_out(weights, middle, options)) <= available:
                low = middle
            else:
                high = middle - 1
        return _lay_out(weights, low, options)

    @staticmethod
    def size(layout: Layout) -> int:
        return layout.store_size + layout.num_coefficients

    @classmethod
    def describe(cls, weights: Sequence[Weight], layout: Layout) -> GroupDescription:
        described = [
            WeightDescription(
                tuple(Window("store", window.start, window.stop) for window in draw.windows), draw.size < weight.numel
            )
            for weight, draw in zip(weights, layout.draws, strict=True)
        ]
        return GroupDescription({"store": layout.store_size}, layout.num_coefficients, tuple(described))

    @staticmethod
    def layout_to_dict(layout: Layout) -> dict[str, Any]:
        return dataclasses.asdict(layout)

    @staticmethod
    def layout_from_dict(fields: dict[str, Any]) -> Layout:
        draws = tuple(Draw(**draw) for draw in fields["draws"])
        return Layout(fields["store_size"], draws, fields["num_coefficients"])

    def coefficient_parameters(self) -> list[nn.Parameter]:
        return [] if self.coefficients is None else [self.coefficients]

    def generate(self, indices: Sequence[int], memory: WeightMemory | None = None) -> list[Tensor]:
        gains, fixed = self.gains, len(self.gains) - self.layout.num_coefficients
        scales = gains if self.coefficients is None else gains * F.pad(self.coefficients, (0, fixed), value=1.0)
        # Mixed in the store's own precision: autocast is for what the weights are used in.
        with torch.autocast(gains.device.type, enabled=False):
            mixtures = mix(list(self.store), scales, [self.layout.draws[index] for index in indices], memory)
            return [
                self.upsamplers[str(index)](mixture)
                if str(index) in self.upsamplers
                else mixture.view(self.weights[index].shape)
                for index, mixture in zip(indices, mixtures, strict=True)
            ]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        for upsampler in self.upsamplers.values():
            cast(Upsampler, upsampler).reset_buffers()
        if self.gains.is_meta:
            return
        sizes = torch.tensor([float(weight.numel) for weight in self.weights])
        stds = torch.tensor([weight.std for weight in self.weights])
        # The store starts near the scale of its weights, so that a gradient step on it moves them as far as one on
        # the weights themselves would.
        scale = (stds.square() @ sizes / (sizes * (stds > 0)).sum()).sqrt() if stds.any() else torch.tensor(0.02)
        # Drawn on the CPU, so that one seed gives one store on every device.
        for piece in self.store:
            piece.copy_(torch.randn(piece.shape, generator=generator).mul_(scale))
        if self.coefficients is not None:
            self.coefficients.copy_(_starting_coefficients(self.layout, generator))
            for weight, draw in zip(self.weights, self.layout.draws, strict=True):
                if weight.std == 0:
                    self.coefficients[draw.start : draw.start + draw.count] = 0.0
        self.calibrate()

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the gains so that each weight has its starting deviation at the present store and coefficients."""
        self.gains.fill_(1 / _COEFFICIENT_NORM)
        for index, (weight, draw) in enumerate(zip(self.weights, self.layout.draws, strict=True)):
            _, measured = mean_and_std(self.generate([index])[0])
            # A weight that starts at zero has no deviation to scale, nor has a store of one number stretched evenly.
            if measured > 0:
                self.gains[draw.start : draw.start + draw.count] *= weight.std / measured


def _starting_coefficients(layout: Layout, generator: torch.Generator | None) -> Tensor:
    """Draw rows of equal magnitudes with random signs, which keep weights of the same templates apart."""
    values = torch.randint(0, 2, (layout.num_coefficients,), generator=generator) * 2.0 - 1.0
    for draw in layout.draws:
        values[draw.start : draw.start + draw.count] *= _COEFFICIENT_NORM / math.sqrt(draw.count)
    return values


def _largest_store(weights: Sequence[Weight], options: Options) -> int:
    """Return the most numbers that weights can use, each mixing as many templates as it may."""
    return (options.max_templates or _TEMPLATE_LIMIT) * sum(weight.numel for weight in weights)


def _lay_out(weights: Sequence[Weight], store_size: int, options: Options) -> Layout:
    """Place each weight's templates in a store, so that every number in it is used.

    Each weight gets a span of consecutive windows; the spans follow one another and start over at the end of the
    store. A weight larger than the store is stretched from all of it.
    """
    upsampler = UPSAMPLERS[options.upsample]
    total = sum(weight.numel for weight in weights)
    limit = options.max_templates or min(_TEMPLATE_LIMIT, max(2, 2 * store_size // total))
    # Weights with learned coefficients come first among the coefficients, those with a fixed one after them.
    counts = [max(1, min(limit, -(-store_size // weight.numel))) for weight in weights]
    learned = [count > 1 or weight.std == 0 for count, weight in zip(counts, weights, strict=True)]
    num_coefficients = sum(count for count, learns in zip(counts, learned, strict=True) if learns)
    start_learned, start_fixed, cursor = 0, num_coefficients, 0
    draws = []
    for weight, count, learns in zip(weights, counts, learned, strict=True):
        if weight.numel <= store_size:
            size, span = weight.numel, min(count * weight.numel, store_size)
            offset = min(cursor, store_size - span)
            cursor = (offset + span) % store_size
        else:
            size = span = upsampler.source_size(weight.shape, store_size)
            offset = 0
        draws.append(Draw(offset, count, size, span, start_learned if learns else start_fixed))
        if learns:
            start_learned += count
        else:
            start_fixed += count
    used = max(draw.offset + draw.span for draw in draws)
    if used < store_size:  # an upsampler that cannot use every number of a store: leave out those nobody reads
        return _lay_out(weights, used, options)
    return Layout(store_size, tuple(draws), num_coefficients)
