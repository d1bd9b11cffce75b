"""The choice of the filters that go at a rate."""

from __future__ import annotations

import torch
from torch import Tensor


def lowest(scores: Tensor, rate: float) -> Tensor:
    """Return the filters of the lowest scores, which go at a rate (Lin et al. 2020, section 3.3).

    Args:
        scores: The mean rank of each filter's feature maps, of shape (F,).
        rate: The share of filters to drop, in [0, 1).

    Returns:
        The indices of the ``floor(rate * F)`` lowest scores; of equal scores, those that come first.
    """
    # In float arithmetic, as in the authors' code: 0.29 * 100 is slightly less than 29.
    return torch.argsort(scores, stable=True)[: int(rate * len(scores))]
