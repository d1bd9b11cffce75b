"""Weights that are mixed from templates of one store, and stretched where it is too small for one."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from shapeshift.generators.base import Options, WeightGenerator, starting_at_zero
from shapeshift.generators.description import GroupDescription, WeightDescription, Window
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import Layout, needed, place
from shapeshift.generators.mixing.product import mix
from shapeshift.generators.mixing.store import empty_store
from shapeshift.upsamplers import UPSAMPLERS, Upsampler
from shapeshift.weights import Weight

TEMPLATE_LIMIT = 16

# More templates come closer to given weights, but every training step pays for them.
FITTED_TEMPLATES = 4


class TemplateGenerator(WeightGenerator[Layout]):
    r"""Generate :math:`W_l = U_l(g_l \sum_k a_{lk} T_{lk})` (Plummer et al. 2022, eq. 1).

    The templates :math:`T_{lk}` are windows of the group's store, and the gain :math:`g_l` is a constant that gives
    the weight its starting standard deviation. Where the coefficients :math:`a_{lk}` come from is what subclasses
    differ in. :math:`U_l` stretches where not even one template fits, and is the identity elsewhere. A weight that
    starts at zero is multiplied by a learned number that starts at zero.
    """

    fits = True

    def __init__(self, weights: Sequence[Weight], layout: Layout, options: Options) -> None:
        super().__init__(weights, layout)
        used = max(draw.extent.stop for draw in layout.draws)
        # A layout may come from a damaged file: it is looked at before memory is asked for.
        if not used <= layout.store_size <= 2 * used:
            raise ValueError(f"a store of {layout.store_size} numbers of which the weights read {used}")
        self.mixtures = list(map(Assembly.of, layout.draws))
        with torch.device(weights[0].device):
            self.store = empty_store(layout.store_size)
            self.make_coefficients(layout.counts, options)
            self._rows = layout.rows if layout.ties else []
            self.register_buffer("gains", torch.empty(sum(draw.count for draw in layout.draws)))
            self.upsamplers = self.make_upsamplers(options)
        self.to(weights[0].dtype)

    def make_upsamplers(self, options: Options) -> nn.ModuleDict:
        """Make what stretches mixtures into the weights that are larger than they, by the weight's index."""
        upsampler = UPSAMPLERS[options.upsample]
        return nn.ModuleDict(
            {
                str(index): upsampler(draw.size, weight.shape)
                for index, (weight, draw) in enumerate(zip(self.weights, self.layout.draws, strict=True))
                if draw.size < weight.numel
            }
        )

    @classmethod
    @abc.abstractmethod
    def count_coefficients(cls, counts: Sequence[int], options: Options) -> int:
        """Return how many trainable numbers weights need to mix the given numbers of templates."""

    @abc.abstractmethod
    def make_coefficients(self, counts: Sequence[int], options: Options) -> None:
        """Register the parameters behind :meth:`all_coefficients`, uninitialised."""

    @abc.abstractmethod
    def all_coefficients(self) -> Tensor:
        """Return the coefficients of all weights that mix several templates, of shape (sum of their counts,)."""

    @abc.abstractmethod
    def reset_coefficients(self, generator: torch.Generator | None) -> None:
        """Draw starting values for the parameters behind :meth:`all_coefficients`."""

    @classmethod
    def build(cls, weights: Sequence[Weight], layout: Layout, options: Options) -> TemplateGenerator:
        return cls(weights, layout, options)

    @classmethod
    def template_limit(cls, weights: Sequence[Weight], store_size: int, options: Options) -> int:
        """Return how many templates a weight may mix out of a store of the given size."""
        total = sum(weight.numel for weight in weights)
        least = FITTED_TEMPLATES if options.init == "fit" else 1
        # Rounded, so that each template serves two weights on average: one template below three quarters of the size.
        return options.max_templates or min(TEMPLATE_LIMIT, max(least, (4 * store_size + total) // (2 * total)))

    @classmethod
    def largest_store(cls, weights: Sequence[Weight], options: Options) -> int:
        """Return the most numbers that the weights can use, each mixing as many templates as it may."""
        total = sum(weight.numel for weight in weights)
        return cls.template_limit(weights, TEMPLATE_LIMIT * total, options) * total

    @classmethod
    def smallest_store(cls, weights: Sequence[Weight], options: Options) -> int:
        """Return the size of the store at which the group has the fewest trainable numbers."""
        upsampler, largest = UPSAMPLERS[options.upsample], max(weight.numel for weight in weights)
        if not any(upsampler.num_parameters(1, weight.shape) for weight in weights if weight.numel > 1):
            return 1
        # Upsamplers with parameters of their own need more of them the more they stretch.
        sizes = {math.ceil(math.exp(math.log(largest) * step / 256)) for step in range(257)}
        return min(sizes, key=lambda size: cls.lay_out(weights, size, options).num_parameters)

    @classmethod
    def least(cls, weights: Sequence[Weight], options: Options) -> int:
        return cls.size(cls.lay_out(weights, cls.smallest_store(weights, options), options))

    @classmethod
    def most(cls, weights: Sequence[Weight], options: Options) -> int:
        return cls.size(cls.lay_out(weights, cls.largest_store(weights, options), options))

    @classmethod
    def plan(cls, weights: Sequence[Weight], available: int, options: Options) -> Layout:
        # Coefficients come in rows: where a few numbers more would have another weight mix, and it has not got room
        # for that many, fewer templates use the budget better.
        highest = cls.template_limit(weights, available, options)
        layouts = (cls._fill(weights, available, options, limit) for limit in range(highest, 0, -1))
        best = next(layouts)
        for layout in layouts:
            if best.num_parameters >= cls.least_used * available:
                break
            best = max(best, layout, key=cls.size)
        return best

    @classmethod
    def _fill(cls, weights: Sequence[Weight], available: int, options: Options, limit: int) -> Layout:
        """Look for the largest store that fits; what the weights need beside it depends on its size."""
        low = cls.smallest_store(weights, options)
        own = needed(weights)
        # Coefficients are what a fit can do without: first of all, each weight gets numbers of its own.
        if options.init == "fit" and cls.size(cls.lay_out(weights, own, options, limit)) <= available:
            low = own
        high = max(low, min(available, cls.largest_store(weights, options)))
        while low < high:
            middle = (low + high + 1) // 2
            if cls.size(cls.lay_out(weights, middle, options, limit)) <= available:
                low = middle
            else:
                high = middle - 1
        return cls.lay_out(weights, low, options, limit)

    @classmethod
    def lay_out(cls, weights: Sequence[Weight], store_size: int, options: Options, limit: int | None = None) -> Layout:
        """Lay out up to ``limit`` templates for each weight in up to ``store_size`` numbers, all of which are read."""
        upsampler, allowed = UPSAMPLERS[options.upsample], cls.template_limit(weights, store_size, options)
        most = allowed if limit is None else min(limit, allowed)
        draws = place(weights, store_size, upsampler, most, apart=options.init == "fit")
        used = max(draw.extent.stop for draw in draws)
        if used < store_size:  # leave out the numbers that nobody reads
            return cls.lay_out(weights, used, options, limit)
        own = [
            upsampler.num_parameters(draw.size, weight.shape)
            for weight, draw in zip(weights, draws, strict=True)
            if draw.size < weight.numel
        ]
        zeros = len(starting_at_zero(weights))
        mixed = [draw.count for draw in draws if draw.count > 1]
        num_parameters = store_size + cls.count_coefficients(mixed, options) + sum(own) + zeros
        return Layout(store_size, draws, num_parameters)

    @staticmethod
    def size(layout: Layout) -> int:
        return layout.num_parameters

    @classmethod
    def describe(cls, weights: Sequence[Weight], layout: Layout) -> GroupDescription:
        described = [
            WeightDescription(
                tuple(Window("store", window.start, window.stop) for window in draw.windows), draw.size < weight.numel
            )
            for weight, draw in zip(weights, layout.draws, strict=True)
        ]
        beside = layout.num_parameters - layout.store_size
        return GroupDescription({"store": layout.store_size}, beside, tuple(described))

    @staticmethod
    def layout_to_dict(layout: Layout) -> dict[str, Any]:
        return dataclasses.asdict(layout)

    @staticmethod
    def layout_from_dict(fields: dict[str, Any]) -> Layout:
        draws = tuple(Combination(**draw) for draw in fields["draws"])
        return Layout(fields["store_size"], draws, fields["num_parameters"], tuple(fields.get("ties", ())))

    def coefficient_parameters(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("store.")]

    def linear_parts(self) -> list[list[nn.Parameter]]:
        stretching = list(self.upsamplers.parameters())
        return [part for part in (list(self.store), *self.coefficient_parts(), stretching) if part]

    def coefficient_parts(self) -> list[list[nn.Parameter]]:
        """Return the parameters behind :meth:`all_coefficients`, in parts in each of which these are linear."""
        beside = ("store.", "upsamplers.", "zero_factors")
        return [[parameter for name, parameter in self.named_parameters() if not name.startswith(beside)]]

    @torch.no_grad()
    def start_fit(self) -> None:
        """Let the first of several templates outweigh the others where each weight has numbers of its own.

        Templates that overlap and count alike cancel in many ways, and meeting a weight exactly then takes many steps.
        """
        if self.layout.store_size < needed(self.weights):
            return
        coefficients = self.all_coefficients()
        for draw in self.layout.draws:
            if draw.count > 1:
                shares = self.gains.new_full((draw.count,), 0.5 / (draw.count - 1))
                shares[0] = 1
                length = (self.gains[draw.row] * coefficients[draw.row]).norm()
                self.gains[draw.row] = shares * (length / shares.norm()) / coefficients[draw.row].abs()

    @torch.no_grad()
    def finish_fit(self) -> None:
        """Scale the store so that a gradient step on it moves no weight further than one on the weight itself would.

        Fitted weights are to be trained on, and larger steps than those of the original's own fine-tuning would undo
        the fit. The gains take back what the store is multiplied with.
        """
        scales = self.scales()
        fitted = [draw for weight, draw in zip(self.weights, self.layout.draws, strict=True) if weight.std > 0]
        longest = max(scales[draw.row].norm() for draw in fitted)
        for piece in self.store:
            piece *= longest
        self.gains /= longest

    def gains_of(self, index: int) -> list[slice]:
        draw = self.layout.draws[index]
        return [draw.row]

    def make(self, indices: Sequence[int], memory: BufferPool | None) -> list[Tensor]:
        mixtures = [self.mixtures[index] for index in indices]
        vectors = mix(list(self.store), self.scales(), mixtures, memory)
        return [self._shape(index, vector) for index, vector in zip(indices, vectors, strict=True)]

    def scales(self) -> Tensor:
        """Return what each template is multiplied with, its coefficient times the gain, one draw's after another."""
        mixed = self.all_coefficients()
        if self._rows:
            mixed = torch.cat([mixed[row] for row in self._rows])
        return self.gains * torch.cat([mixed, mixed.new_ones(len(self.gains) - len(mixed))])

    def _shape(self, index: int, mixture: Tensor) -> Tensor:
        if str(index) in self.upsamplers:
            stretched: Tensor = self.upsamplers[str(index)](mixture)
            return stretched
        return mixture.view(self.weights[index].shape)

    def draw_parameters(self, generator: torch.Generator | None) -> None:
        pieces = self._deviations().split([len(piece) for piece in self.store])
        for piece, deviations in zip(self.store, pieces, strict=True):
            piece.copy_(torch.randn(piece.shape, generator=generator) * deviations.unsqueeze(1))
        self.reset_coefficients(generator)
        for upsampler in self.upsamplers.values():
            cast(Upsampler, upsampler).reset_parameters(generator)

    def _deviations(self) -> Tensor:
        """Return the deviation that each number of the store starts with: that of the weights which read it.

        A gradient step on the store moves a weight by the square of its gain, as compared with one on the weight
        itself. Where weights that start far apart read the same numbers, the mean of their squares is between them.
        """
        readers, squares = torch.zeros(2, self.layout.store_size)
        for weight, draw in zip(self.weights, self.layout.draws, strict=True):
            if weight.std > 0:
                readers[draw.extent] += weight.numel / draw.span
                squares[draw.extent] += weight.numel / draw.span * weight.std**2
        return torch.where(readers > 0, squares / readers, self.typical_std**2).sqrt()
