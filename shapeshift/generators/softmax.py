"""Templates that are stretched to every weight, chosen by a softmax: what a mapping is learned with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, Options, starting_at_zero
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import Layout
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.upsamplers import Upsampler
from shapeshift.weights import Weight

NUM_TEMPLATES = 4


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
    least_used = 0.9  # rows and columns are whole numbers, which tells in small stores

    @classmethod
    def count_coefficients(cls, counts: Sequence[int], options: Options) -> int:
        return sum(counts)

    def make_coefficients(self, counts: Sequence[int], options: Options) -> None:
        self.coefficients = nn.Parameter(torch.empty(sum(counts)))

    def make_upsamplers(self, options: Options) -> nn.ModuleDict:
        size = self.layout.store_size
        return nn.ModuleDict(
            {
                str(index): Resize(template_shape(weight.shape, size, draw.count), weight.shape)
                for index, (weight, draw) in enumerate(zip(self.weights, self.layout.draws, strict=True))
            }
        )

    def probabilities(self) -> Tensor:
        """Return the coefficients as they mix, of shape (weights, K), in the order of the weights."""
        return self.coefficients.view(len(self.weights), -1).softmax(-1)

    def all_coefficients(self) -> Tensor:
        return self.probabilities().flatten()

    def reset_coefficients(self, generator: torch.Generator | None) -> None:
        # All alike, so that weights which differ in the end do so by what they learned.
        self.coefficients.zero_()

    @classmethod
    def template_limit(cls, weights: Sequence[Weight], store_size: int, options: Options) -> int:
        return max(2, options.max_templates or NUM_TEMPLATES)

    @classmethod
    def smallest_store(cls, weights: Sequence[Weight], options: Options) -> int:
        count = cls.template_limit(weights, 1, options)
        ratios = [_ratio(weight.shape) for weight in weights]
        return count * math.ceil(max(max(ratio, 1 / ratio) for ratio in ratios))

    @classmethod
    def largest_store(cls, weights: Sequence[Weight], options: Options) -> int:
        largest = max(weight.numel for weight in weights)
        return max(cls.smallest_store(weights, options), cls.template_limit(weights, 1, options) * largest)

    @classmethod
    def lay_out(cls, weights: Sequence[Weight], store_size: int, options: Options, limit: int | None = None) -> Layout:
        count = cls.template_limit(weights, store_size, options)
        grids = [template_shape(weight.shape, store_size, count) for weight in weights]
        # A weight that is made half as large or smaller passes numbers over: others have to read them.
        read = [
            rows * columns
            for (rows, columns), weight in zip(grids, weights, strict=True)
            if rows < 2 * weight.shape[0] and columns < 2 * math.prod(weight.shape[1:])
        ]
        used = count * max(read, default=0)
        if used < store_size and all(math.prod(template_shape(weight.shape, used, count)) for weight in weights):
            return cls.lay_out(weights, used, options)
        sizes = [rows * columns for rows, columns in grids]
        draws = tuple(Combination(0, count, size, count * size, count * index) for index, size in enumerate(sizes))
        zeros = len(starting_at_zero(weights))
        return Layout(store_size, draws, store_size + count * len(weights) + zeros)


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
