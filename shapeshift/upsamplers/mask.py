"""Repetition under learned masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.upsamplers.base import UPSAMPLERS, Upsampler


@UPSAMPLERS.register("mask")
class Mask(Upsampler):
    r"""Repeat the numbers, each copy but the first under a learned mask (Plummer et al. 2022, app. C).

    Copy :math:`j` holds :math:`x_t \, u_{j, t \bmod W}` for the source's numbers :math:`x_t`. The masks :math:`u_j`
    of :math:`W` numbers start at :math:`1 / (W m)` for :math:`m` masked copies. The authors' implementation leaves out
    the numbers of the source beyond a multiple of :math:`W`; here every number is used, and a mask is no longer than
    what it scales.

    Attributes:
        window: the length of a mask, :math:`W`; a multiple of 9 in the paper.
    """

    window: ClassVar[int] = 9

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(size, shape)
        self.copies = _masked_copies(size, shape)
        self.length = min(self.window, size)
        self.masks = nn.Parameter(torch.empty(self.num_parameters(size, shape)))

    @classmethod
    def num_parameters(cls, size: int, shape: Sequence[int]) -> int:
        copies, length = _masked_copies(size, shape), min(cls.window, size)
        # The weight may end within the first numbers of the last copy.
        return (copies - 1) * length + min(length, math.prod(shape) - copies * size)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        self.masks.fill_(1 / (self.length * self.copies))

    def forward(self, source: Tensor) -> Tensor:
        # Ones before, for the first copy, and zeros behind, for what the weight does not read of the last mask.
        unread = self.length * self.copies - len(self.masks)
        masks = F.pad(F.pad(self.masks, (self.length, 0), value=1.0), (0, unread)).view(-1, 1, self.length)
        runs = F.pad(source, (0, -self.size % self.length)).view(-1, self.length)
        copies = (masks * runs).view(self.copies + 1, -1)[:, : self.size]
        return copies.reshape(-1)[: math.prod(self.shape)].view(self.shape)


def _masked_copies(size: int, shape: Sequence[int]) -> int:
    """Return how many copies of the source a weight needs behind the first."""
    return -(-math.prod(shape) // size) - 1
