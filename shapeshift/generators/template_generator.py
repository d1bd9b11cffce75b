"""Weights that are combinations of templates of one store, stretched where the store is too small for one."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from shapeshift.generators.base import GeneratorOptions, typical_std
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.combinations import scaled
from shapeshift.generators.mixing.layout import TemplateLayout, TemplatePlanner
from shapeshift.generators.mixing.store import empty_store, fill_store, reader_stds, readers_between
from shapeshift.upsamplers import UPSAMPLERS, Upsampler
from shapeshift.weights import Weight


class TemplateGenerator(MixedGenerator[TemplateLayout]):
    r"""Generate :math:`W_l = z_l U_l(g_l \sum_k a_{lk} T_{lk})` (Plummer et al. 2022, eq. 1).

    The templates :math:`T_{lk}` are slices of the group's store, and the gain :math:`g_l` is a constant that gives
    the weight its starting standard deviation. Subclasses differ in where the coefficients :math:`a_{lk}` come from.
    :math:`U_l` stretches where the store is smaller than one template, and is the identity elsewhere. The factor
    :math:`z_l` of a weight that starts at zero is learned and starts at zero; that of any other weight is 1.
    """

    layout_type = TemplateLayout
    fits = True

    #: The planner of the generator's layouts.
    planner_type: ClassVar[type[TemplatePlanner]] = TemplatePlanner

    def __init__(self, weights: Sequence[Weight], layout: TemplateLayout, options: GeneratorOptions) -> None:
        super().__init__(weights, layout)
        self.kept_as(options)
        self.assemblies = list(map(Assembly.of, layout.combinations))
        with torch.device(weights[0].device):
            self.store = empty_store(layout.store_size)
            self.make_coefficients(layout.counts, options)
            self._tied_rows = layout.rows if layout.tied_to else []
            self.register_buffer("gains", torch.empty(sum(found.count for found in layout.combinations)))
            self.upsamplers = self.make_upsamplers(options)
        self.to(weights[0].dtype)

    @classmethod
    def build(cls, weights: Sequence[Weight], layout: TemplateLayout, options: GeneratorOptions) -> Self:
        return cls(weights, layout, options)

    @classmethod
    def planner(cls, weights: Sequence[Weight], options: GeneratorOptions) -> TemplatePlanner:
        return cls.planner_type(weights, options, cls.count_coefficients)

    @staticmethod
    @abc.abstractmethod
    def count_coefficients(counts: Sequence[int], options: GeneratorOptions) -> int:
        """Return how many parameters weights need to combine the given numbers of templates."""

    @abc.abstractmethod
    def make_coefficients(self, counts: Sequence[int], options: GeneratorOptions) -> None:
        """Register the parameters of :meth:`all_coefficients`, uninitialised."""

    @abc.abstractmethod
    def all_coefficients(self) -> Tensor:
        """Return the coefficients of all weights that combine several templates, of shape (sum of their counts,)."""

    @abc.abstractmethod
    def reset_coefficients(self, rng: torch.Generator | None) -> None:
        """Draw starting values for the parameters of :meth:`all_coefficients`."""

    def make_upsamplers(self, options: GeneratorOptions) -> nn.ModuleDict:
        """Make the upsampler of each weight that is larger than its templates, by the weight's index."""
        upsampler = UPSAMPLERS[options.upsample]
        return nn.ModuleDict(
            {
                str(index): upsampler(combination.size, weight.shape)
                for index, (weight, combination) in enumerate(zip(self.weights, self.layout.combinations, strict=True))
                if combination.size < weight.numel
            }
        )

    def upsampler(self, index: int) -> Upsampler | None:
        return cast(Upsampler | None, self.upsamplers._modules.get(str(index)))

    def scales(self) -> Tensor:
        coefficients = self.all_coefficients()
        if self._tied_rows:
            coefficients = torch.cat([coefficients[row] for row in self._tied_rows])
        return scaled(coefficients, self.gains)

    def gains_of(self, index: int) -> list[slice]:
        return [self.layout.combinations[index].row]

    def draw_parameters(self, rng: torch.Generator | None) -> None:
        readers = [
            (combination.store_slice, weight.std, weight.numel / combination.span)
            for weight, combination in zip(self.weights, self.layout.combinations, strict=True)
        ]
        default = typical_std(self.weights)
        fill_store(self.store, rng, lambda a, b: reader_stds(b - a, readers_between(readers, a, b), default))
        self.reset_coefficients(rng)
        for upsampler in self.upsamplers.values():
            cast(Upsampler, upsampler).reset_parameters(rng)
