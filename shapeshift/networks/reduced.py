"""The reduced baseline: the widest network within a budget, with one factor on all of its widths."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.errors import BudgetError

# The number of factors that are tried. Widths a and b round at factors that lie at least 1 / (2ab) apart, so no network
# is missed as long as ab is below 2^23. BERT-base's 768 x 3072 is 2.4 million.
_FACTORS = 2**24


def scaled_width(width: int, factor: float) -> int:
    """Return a width times a factor, rounded, and at least 1."""
    return max(1, round(width * factor))


def reduce_width(build: Callable[[float], nn.Module], budget: int) -> nn.Module:
    """Build the widest network whose parameter count is within a budget.

    It is the baseline without sharing (Plummer et al. 2022, section 4, "reduced baseline"). One factor multiplies all
    widths of the full network, and each is rounded by itself. The parameter count therefore climbs in steps.

    Args:
        build: A function that builds the network for a factor in (0, 1] on its widths. The parameter count must not
            fall when the factor rises.
        budget: The largest number of trainable parameters.

    Returns:
        A new network. It is the full one if the budget allows it.

    Raises:
        BudgetError: If even the thinnest network is larger than the budget.

    Example:
        >>> import shapeshift
        >>> from shapeshift.networks.reduced import reduce_width, scaled_width
        >>> from torch import nn
        >>> def build(factor):
        ...     width = scaled_width(64, factor)
        ...     return nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 10))
        >>> shapeshift.count_parameters(reduce_width(build, budget=1000))
        999
    """

    def size(step: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(step / _FACTORS))

    widest = bisect.bisect_right(range(1, _FACTORS + 1), budget, key=size)
    if not widest:
        raise BudgetError(f"no width meets a budget of {budget:,} parameters: the thinnest network has {size(1):,}")
    return build(widest / _FACTORS)
