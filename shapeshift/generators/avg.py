"""The plain mean of templates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shapeshift.generators.base import GENERATORS, Options
from shapeshift.generators.template_generator import TemplateGenerator


@GENERATORS.register("avg")
class Average(TemplateGenerator):
    r"""Mix with the constant coefficients :math:`a_{lk} = 1` (Plummer et al. 2022, section 3.1, "Avg").

    The gain, which gives the weight its starting deviation, takes the place of the mean's factor 1/K.
    """

    @classmethod
    def count_coefficients(cls, counts: Sequence[int], options: Options) -> int:
        return 0

    def make_coefficients(self, counts: Sequence[int], options: Options) -> None:
        pass

    def all_coefficients(self) -> Tensor:
        return self.gains.new_ones(sum(self.layout.counts))

    def reset_coefficients(self, generator: torch.Generator | None) -> None:
        pass
