"""The reduced baseline: a network with one factor on all of its widths, as wide as a budget allows."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.errors import BudgetError

# How many factors there are. Widths a and b round at factors that lie at least 1 / (2ab) apart: no network is missed as
# long as ab is below 2^23, and BERT-base's 768 x 3072 is 2.4 million.
_FACTORS = 2**24


def scaled_width(width: int, factor: float) -> int:
    """Return a width times a factor, rounded, and at least 1."""
    return max(1, round(width * factor))


def reduce_width(build: Callable[[float], nn.Module], budget: int) -> nn.Module:
    """Build the thinner network whose parameter count is closest to a budget and not above it.

    It is what a budget buys without sharing (the reduced baseline of Plummer et al. 2022, section 4). All widths of the
    network are those of the full one times one factor, each rounded by itself, so the count climbs in steps: the
    network returned is on the last step that the budget reaches.

    Args:
        build: makes the network at a factor in (0, 1] on its widths; never a smaller one at a larger factor.
        budget: the most trainable parameters that it may have.

    Returns:
        The network, freshly built; the full one where the budget allows it.

    Raises:
        BudgetError: if even the thinnest one is larger than the budget.
    """

    def size(step: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(step / _FACTORS))

    widest = bisect.bisect_right(range(1, _FACTORS + 1), budget, key=size)
    if not widest:
        raise BudgetError(f"no width meets a budget of {budget:,} parameters: the thinnest network has {size(1):,}")
    return build(widest / _FACTORS)
