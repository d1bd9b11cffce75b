"""The reduced baseline: an architecture made thinner until it meets a budget."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from torch import nn

from shapeshift.budget import count_parameters
from shapeshift.errors import BudgetError


def scaled_width(width: int, factor: float) -> int:
    """Return a width times a factor, rounded, and at least 1."""
    return max(1, round(width * factor))


def reduce_width(build: Callable[[float], nn.Module], budget: int, steps: int = 512) -> nn.Module:
    """Build the thinner network whose parameter count is closest to a budget and not above it.

    It is what a budget buys without sharing (the reduced baseline of Plummer et al. 2022, section 4).

    Args:
        build: makes the network at a factor in (0, 1] on its widths.
        budget: the most trainable parameters that it may have.
        steps: how many factors are tried.

    Returns:
        The network, freshly built.

    Raises:
        BudgetError: if even the thinnest one is larger than the budget.
    """

    def size(step: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(step / steps))

    # Wider is never smaller, so the widest that fits can be found by bisection.
    widest = bisect.bisect_right(range(1, steps + 1), budget, key=size)
    if not widest:
        raise BudgetError(f"no width meets a budget of {budget:,} parameters: the thinnest network has {size(1):,}")
    return build(widest / steps)
