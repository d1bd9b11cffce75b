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
    r"""Repeat the source, with a learned mask on each copy but the first (Plummer et al. 2022, app. C).

    Copy :math:`j` holds :math:`x_t \, u_{j, t \bmod W}` for the source's entries :math:`x_t`. The masks :math:`u_j`
    of :math:`W` entries start at :math:`1 / (W m)` for :math:`m` masked copies. The authors' implementation drops the
    entries of the source beyond a multiple of :math:`W`. Here every entry is used, and a mask is no longer than its
    copy.

    Attributes:
        window: The length of a mask, :math:`W`. It is a multiple of 9 in the paper.
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
        # The weight may end within the first entries of the last copy.
        return (copies - 1) * length + min(length, math.prod(shape) - copies * size)

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None) -> None:
        self.masks.fill_(1 / (self.length * self.copies))

    def forward(self, source: Tensor) -> Tensor:
        # Ones in front are the mask of the first copy. Zeros at the end fill up the last mask beyond the weight.
        unread = self.length * self.copies - len(self.masks)
        masks = F.pad(F.pad(self.masks, (self.length, 0), value=1.0), (0, unread)).view(-1, 1, self.length)
        runs = F.pad(source, (0, -self.size % self.length)).view(-1, self.length)
        copies = (masks * runs).view(self.copies + 1, -1)[:, : self.size]
        return copies.reshape(-1)[: math.prod(self.shape)].view(self.shape)


def _masked_copies(size: int, shape: Sequence[int]) -> int:
    """Return the number of copies of the source that a weight needs after the first."""
    return -(-math.prod(shape) // size) - 1
