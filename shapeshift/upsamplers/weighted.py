"""Weighted sums of the two halves of the source."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("wavg")
class WeightedHalves(Upsampler):
    r"""Fill the weight with learned sums of the two halves of the source (Plummer et al. 2022, app. C).

    Part :math:`q` of the weight is :math:`A_{q0} a + A_{q1} b` for the halves :math:`a` and :math:`b`. The coefficients
    :math:`A` start with orthonormal columns. The authors' implementation drops the last entry of a source of odd size.
    Here the halves overlap by one entry. A source of one entry has one half.
    """

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(size, shape)
        # A vector like the coefficients of templates, so that optimizers without decay on vectors do not decay it.
        self.coefficients = nn.Parameter(torch.empty(self.num_parameters(size, shape)))

    @classmethod
    def num_parameters(cls, size: int, shape: Sequence[int]) -> int:
        # Count only the parts that the weight reads. Whole copies of the source can hold one part more.
        return -(-math.prod(shape) // _half(size)) * min(2, size)

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None) -> None:
        if self.coefficients.is_meta:
            return
        columns = torch.empty(self._matrix().shape, dtype=torch.float64, device="cpu")
        self.coefficients.copy_(nn.init.orthogonal_(columns, generator=rng).view(-1))

    def forward(self, source: Tensor) -> Tensor:
        half = _half(self.size)
        halves = torch.stack([source[start : start + half] for start in (0, self.size - half)[: self.size]])
        parts = self._matrix() @ halves
        return parts.view(-1)[: math.prod(self.shape)].view(self.shape)

    def _matrix(self) -> Tensor:
        """Return the coefficients with a row per part of the weight and a column per half."""
        return self.coefficients.view(-1, min(2, self.size))


def _half(size: int) -> int:
    return (size + 1) // 2
