"""Weighted averaging: learned coefficients for each weight."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, Options
from shapeshift.generators.templates import TemplateGroup

# The length that a weight's row of coefficients starts with; the gain takes it back. A gradient step on coefficients
# moves whole templates, so under SGD rows of length one learn far faster than the store does. Longer rows slow them
# down by the square of the length: `python -m benchmarks run starting_values` compares them.
COEFFICIENT_NORM = 5.0


@GENERATORS.register("wavg")
class WeightedAverage(TemplateGroup):
    r"""Mix with learned coefficients :math:`a_{lk}` (Plummer et al. 2022, section 3.1, "WAvg")."""

    @classmethod
    def count_coefficients(cls, counts: Sequence[int], options: Options) -> int:
        return sum(counts)

    def make_coefficients(self, counts: Sequence[int], options: Options) -> None:
        self.coefficients = nn.Parameter(torch.empty(sum(counts))) if counts else None
        self._orthogonal = options.coefficients == "orthogonal"

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
            # Equal magnitudes with random signs, which keep weights of the same templates apart.
            signs = torch.randint(0, 2, self.coefficients.shape, generator=generator) * 2.0 - 1.0
            lengths = [COEFFICIENT_NORM / math.sqrt(count) for count in counts for _ in range(count)]
            start = signs * torch.tensor(lengths)
        self.coefficients.copy_(start)


def _orthogonal(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Draw a matrix whose columns, or rows where there are fewer of them, are orthonormal (Saxe et al. 2014)."""
    drawn = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    basis: Tensor
    basis, triangle = torch.linalg.qr(drawn)
    # The decomposition prefers some signs: with those of the diagonal, all orthogonal matrices are equally likely.
    basis *= triangle.diagonal().sign()
    return basis if rows >= columns else basis.T
