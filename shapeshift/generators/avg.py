"""The plain mean of templates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shapeshift.generators.base import GENERATORS, GeneratorOptions
from shapeshift.generators.template_generator import TemplateGenerator


@GENERATORS.register("avg")
class Average(TemplateGenerator):
    r"""Mix with the constant coefficients :math:`a_{lk} = 1` (Plummer et al. 2022, section 3.1, "Avg").

    The gain, which gives the weight its starting deviation, takes the place of the mean's factor 1/K.
    """

    @staticmethod
    def count_coefficients(counts: Sequence[int], options: GeneratorOptions) -> int:
        return 0

    def make_coefficients(self, counts: Sequence[int], options: GeneratorOptions) -> None:
        pass

    def all_coefficients(self) -> Tensor:
        return self.gains.new_ones(sum(self.layout.counts))

    def reset_coefficients(self, rng: torch.Generator | None) -> None:
        pass
