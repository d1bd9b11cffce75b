"""Coefficients that come from a learned embedding of each layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from shapeshift.generators.base import GENERATORS, GeneratorOptions
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.generators.wavg import COEFFICIENT_NORM


@GENERATORS.register("emb")
class Embedding(TemplateGenerator):
    r"""Mix with coefficients :math:`a_l = P_K \phi_l + b_K` (Plummer et al. 2022, section 3.1, "Emb").

    Each weight has a learned embedding :math:`\phi_l`, and all weights that mix the same number of templates K share
    one linear map.
    """

    phi: nn.Parameter | None
    projections: nn.ModuleList

    linear_in = ("phi", "projections")

    @staticmethod
    def count_coefficients(counts: Sequence[int], options: GeneratorOptions) -> int:
        size = options.embedding_size
        return len(counts) * size + sum(count * (size + 1) for count in set(counts))

    def make_coefficients(self, counts: Sequence[int], options: GeneratorOptions) -> None:
        size = options.embedding_size
        self.rows = sorted(Counter(counts).items())
        self.register_parameter("phi", nn.Parameter(torch.empty(len(counts), size)) if counts else None)
        # Made without starting values, which would draw from torch's global generator.
        self.projections = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, size, count, device=torch.get_default_device()) for count, _ in self.rows
        )

    def all_coefficients(self) -> Tensor:
        if self.phi is None:
            return self.gains.new_empty(0)
        embeddings = self.phi.split([rows for _, rows in self.rows])
        found = [projection(phi).flatten() for projection, phi in zip(self.projections, embeddings, strict=True)]
        return torch.cat(found)

    def reset_coefficients(self, rng: torch.Generator | None) -> None:
        if self.phi is not None:
            self.phi.copy_(torch.randn(self.phi.shape, generator=rng))
            for module in self.projections:
                projection = cast(nn.Linear, module)
                scale = COEFFICIENT_NORM / math.sqrt(projection.weight.numel())
                projection.weight.copy_(torch.randn(projection.weight.shape, generator=rng) * scale)
                projection.bias.zero_()
