"""Weighted averaging: learned coefficients for each weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, GeneratorOptions
from shapeshift.generators.template_generator import TemplateGenerator

# The length of a weight's row of coefficients at the start; the gain takes it back. A gradient step on coefficients
# moves whole templates, so under SGD rows of length one learn far faster than the store does. Longer rows slow them
# down by the square of the length: `python -m benchmarks run starting_values` compares them.
COEFFICIENT_NORM = 5.0


@GENERATORS.register("wavg")
class WeightedAverage(TemplateGenerator):
    r"""Mix with learned coefficients :math:`a_{lk}` (Plummer et al. 2022, section 3.1, "WAvg")."""

    linear_in = ("coefficients",)

    @staticmethod
    def count_coefficients(counts: Sequence[int], options: GeneratorOptions) -> int:
        return sum(counts)

    def make_coefficients(self, counts: Sequence[int], options: GeneratorOptions) -> None:
        self.coefficients = nn.Parameter(torch.empty(sum(counts))) if counts else None
        # A fit converges faster and more reliably from templates that differ.
        self._orthogonal = options.coefficients == "orthogonal" or options.init == "fit"

    def all_coefficients(self) -> Tensor:
        return self.gains.new_empty(0) if self.coefficients is None else self.coefficients

    def reset_coefficients(self, rng: torch.Generator | None) -> None:
        if self.coefficients is None:
            return
        counts = self.layout.counts
        if self._orthogonal:
            rows = Counter(counts)
            start = torch.cat([_orthogonal(rows[count], count, rng).flatten() for count in sorted(rows)])
        else:
            start = torch.cat([COEFFICIENT_NORM * _geometric(count, rng) for count in counts])
        self.coefficients.copy_(start)


def _geometric(count: int, rng: torch.Generator | None) -> Tensor:
    """Draw a row of length one: 1, 1/2, 1/4 and so on, in random order, with random signs, and scaled.

    Adam moves each entry of a store equally far, and a weight as far as the magnitudes of its coefficients add up to:
    here at most sqrt(3) times as far as a plain weight, for any number of templates. Equal magnitudes would add up to
    the square root of that number.
    """
    magnitudes = 0.5 ** torch.randperm(count, generator=rng)
    signs = torch.randint(0, 2, (count,), generator=rng) * 2.0 - 1.0
    return F.normalize(signs * magnitudes, dim=0)


def _orthogonal(rows: int, columns: int, rng: torch.Generator | None) -> Tensor:
    """Draw a matrix whose columns, or rows where there are fewer of them, are orthonormal (Saxe et al. 2014)."""
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=rng)
    basis: Tensor
    basis, triangle = torch.linalg.qr(drawn)
    # The decomposition prefers some signs. With those of the diagonal, all orthogonal matrices are equally likely.
    basis *= triangle.diagonal().sign()
    return basis if rows >= columns else basis.T
