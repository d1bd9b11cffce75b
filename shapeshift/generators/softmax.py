"""Templates that are stretched to every weight and weighed by a softmax: the generator that learns a mapping."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, GeneratorOptions
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import TemplateLayout, TemplatePlanner
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.upsamplers import Upsampler

NUM_TEMPLATES = 4


class SoftmaxPlanner(TemplatePlanner):
    """Cuts the whole store into equally many templates for every weight."""

    least_used = 0.9  # rows and columns are whole numbers, which matters in small stores

    def template_limit(self, store_size: int) -> int:
        return max(2, self.options.max_templates or NUM_TEMPLATES)

    @functools.cached_property
    def smallest_store(self) -> int:
        ratios = [_ratio(weight.shape) for weight in self.weights]
        return self.template_limit(1) * math.ceil(max(max(ratio, 1 / ratio) for ratio in ratios))

    @functools.cached_property
    def largest_store(self) -> int:
        return max(self.smallest_store, self.template_limit(1) * self.largest)

    def layout_of(self, store_size: int, limit: int | None = None) -> TemplateLayout:
        count = self.template_limit(store_size)
        grids = [template_shape(weight.shape, store_size, count) for weight in self.weights]
        # Shrinking to half the size or less skips entries of the store, which another weight then has to read.
        read = [
            rows * columns
            for (rows, columns), weight in zip(grids, self.weights, strict=True)
            if rows < 2 * weight.shape[0] and columns < 2 * math.prod(weight.shape[1:])
        ]
        used = count * max(read, default=0)
        if used < store_size and all(math.prod(template_shape(weight.shape, used, count)) for weight in self.weights):
            return self.layout_of(used)
        sizes = [rows * columns for rows, columns in grids]
        combinations = tuple(
            Combination(0, count, size, count * size, count * index) for index, size in enumerate(sizes)
        )
        return TemplateLayout(store_size, combinations, count * len(self.weights) + self.num_zero_weights)


@GENERATORS.register("softmax")
class Softmax(TemplateGenerator):
    r"""Generate :math:`W_l = U_l(\sum_k \mathrm{softmax}(a_l)_k T_{lk})` (Plummer et al. 2022, section 3.2).

    Every weight mixes the same number K of templates (``max_templates``, 4 by default), each a matrix that the whole
    store was cut into, and is stretched to its own size bilinearly; so the coefficients of weights of all shapes can
    be compared. The least and the most that it can use lie closer together than for other generators: the largest
    weight must not be shrunk from its templates.
    """

    coefficients: nn.Parameter
    fits = False
    planner_type = SoftmaxPlanner

    @staticmethod
    def count_coefficients(counts: Sequence[int], options: GeneratorOptions) -> int:
        return sum(counts)

    def make_coefficients(self, counts: Sequence[int], options: GeneratorOptions) -> None:
        self.coefficients = nn.Parameter(torch.empty(sum(counts)))

    def make_upsamplers(self, options: GeneratorOptions) -> nn.ModuleDict:
        size = self.layout.store_size
        return nn.ModuleDict(
            {
                str(index): Resize(template_shape(weight.shape, size, combination.count), weight.shape)
                for index, (weight, combination) in enumerate(zip(self.weights, self.layout.combinations, strict=True))
            }
        )

    def probabilities(self) -> Tensor:
        """Return the coefficients after the softmax, of shape (weights, K), in the order of the weights."""
        return self.coefficients.view(len(self.weights), -1).softmax(-1)

    def all_coefficients(self) -> Tensor:
        return self.probabilities().flatten()

    def reset_coefficients(self, rng: torch.Generator | None) -> None:
        # Equal values: weights that differ in the end differ by what they learned.
        self.coefficients.zero_()


def _ratio(shape: Sequence[int]) -> float:
    return math.prod(shape[1:]) / shape[0]


def template_shape(shape: Sequence[int], store_size: int, count: int) -> tuple[int, int]:
    """Return the rows and columns of each of ``count`` templates that a store is cut into for a weight of ``shape``.

    Both are 0 where the store is too small for a template of one row.
    """
    rows = math.isqrt(math.floor((store_size // count) / _ratio(shape)))
    return rows, store_size // (rows * count) if rows else 0


class Resize(Upsampler):
    """Resize a matrix bilinearly to (shape[0], product of the rest), and read it as a weight.

    Args:
        grid: the matrix's rows and columns.
        shape: the weight's shape.
    """

    def __init__(self, grid: tuple[int, int], shape: Sequence[int]) -> None:
        super().__init__(math.prod(grid), shape)
        self.grid = grid

    def forward(self, source: Tensor) -> Tensor:
        size = (self.shape[0], math.prod(self.shape[1:]))
        return F.interpolate(source.view(1, 1, *self.grid), size, mode="bilinear").view(self.shape)
