"""Which filters a rate drops."""

from __future__ import annotations

import torch
from torch import Tensor


def lowest(scores: Tensor, rate: float) -> Tensor:
    """Find the filters that a rate drops: those of the lowest scores (Lin et al. 2020, section 3.3).

    Args:
        scores: the mean rank of each filter's feature maps, of shape (F,).
        rate: the share of filters to drop, in [0, 1).

    Returns:
        The indices of the ``floor(rate * F)`` lowest, of shape (dropped,); among equal ones, those that come first.
    """
    # In float arithmetic, as the authors' code has it: 0.29 of 100 is a hair below 29.
    return torch.argsort(scores, stable=True)[: int(rate * len(scores))]
