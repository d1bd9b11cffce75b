"""Weighted averaging: learned coefficients for each weight."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, Options
from shapeshift.generators.template_generator import TemplateGenerator

# The length that a weight's row of coefficients starts with; the gain takes it back. A gradient step on coefficients
# moves whole templates, so under SGD rows of length one learn far faster than the store does. Longer rows slow them
# down by the square of the length: `python -m benchmarks run starting_values` compares them.
COEFFICIENT_NORM = 5.0


@GENERATORS.register("wavg")
class WeightedAverage(TemplateGenerator):
    r"""Mix with learned coefficients :math:`a_{lk}` (Plummer et al. 2022, section 3.1, "WAvg")."""

    @classmethod
    def count_coefficients(cls, counts: Sequence[int], options: Options) -> int:
        return sum(counts)

    def make_coefficients(self, counts: Sequence[int], options: Options) -> None:
        self.coefficients = nn.Parameter(torch.empty(sum(counts))) if counts else None
        # A fit meets its weights the sooner, and the more surely, the less its templates begin alike.
        self._orthogonal = options.coefficients == "orthogonal" or options.init == "fit"

    def all_coefficients(self) -> Tensor:
        return self.gains.new_empty(0) if self.coefficients is None else self.coefficients

    def reset_coefficients(self, generator: torch.Generator | None) -> None:
        if self.coefficients is None:
            return
        counts = self.layout.counts
        if self._orthogonal:
            rows = Counter(counts)
            start = torch.cat([_orthogonal(rows[count], count, generator).flatten() for count in sorted(rows)])
        else:
            start = torch.cat([COEFFICIENT_NORM * _geometric(count, generator) for count in counts])
        self.coefficients.copy_(start)

    @torch.no_grad()
    def finish_fit(self) -> None:
        super().finish_fit()
        if self.coefficients is None:
            return
        # As on the store: a gradient step on coefficients moves no weight further than one on the weight itself would.
        store = torch.cat(list(self.store)).flatten()
        for weight, draw in zip(self.weights, self.layout.draws, strict=True):
            if draw.count > 1:
                repeats = weight.numel / draw.size
                length = math.sqrt(repeats) * torch.cat([store[window] for window in draw.windows]).norm()
                if length > 0:
                    self.coefficients[draw.row] *= self.gains[draw.row] * length
                    self.gains[draw.row] = 1 / length


def _geometric(count: int, generator: torch.Generator | None) -> Tensor:
    """Draw a row of length one: 1, 1/2, 1/4 and so on in random order, with random signs, and scaled.

    Adam moves each number of a store equally far, and so a weight as far as its coefficients' magnitudes add up to:
    here at most the square root of three times as far as a plain weight, however many templates it mixes. Equal
    magnitudes would add up to the square root of their number.
    """
    magnitudes = 0.5 ** torch.randperm(count, generator=generator)
    signs = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    return F.normalize(signs * magnitudes, dim=0)


def _orthogonal(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Draw a matrix whose columns, or rows where there are fewer of them, are orthonormal (Saxe et al. 2014)."""
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    basis: Tensor
    basis, triangle = torch.linalg.qr(drawn)
    # The decomposition prefers some signs: with those of the diagonal, all orthogonal matrices are equally likely.
    basis *= triangle.diagonal().sign()
    return basis if rows >= columns else basis.T
