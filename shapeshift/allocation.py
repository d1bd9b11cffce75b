"""Splitting a budget over parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shapeshift.generators.base import Layout, Planner


def allocate(planners: Sequence[Planner[Any]], available: int) -> list[Layout]:
    """Lay out groups in proportion to their weights' sizes, and pass on what a group cannot use.

    A group of one weight shares with no other, and gets that weight's own size.

    Args:
        planners: The planner of each group.
        available: The number of parameters for all groups together.

    Returns:
        One layout per group.
    """
    own = _own_sizes(planners, available)
    bounds = [
        (own[index], own[index]) if index in own else (planner.least, planner.most)
        for index, planner in enumerate(planners)
    ]
    shares = _proportional([planner.total for planner in planners], available, bounds)
    layouts: list[Layout] = [planner.lay_out(share) for planner, share in zip(planners, shares, strict=True)]
    left = available - sum(layout.num_parameters for layout in layouts)
    # Largest first: a group that can take all of it leaves the others in proportion. Those of one weight come last.
    for index in sorted(range(len(planners)), key=lambda index: (index in own, -planners[index].total)):
        if index in own and left <= available // 100:
            break
        used = layouts[index].num_parameters
        layout = planners[index].lay_out(min(used + left, planners[index].most))
        if layout.num_parameters > used:
            layouts[index] = layout
            left -= layout.num_parameters - used
    return layouts


def _own_sizes(planners: Sequence[Planner[Any]], available: int) -> dict[int, int]:
    """Return the size of each group of one weight, by the group's index.

    All other groups keep at least half of their share: where the budget is small, the largest of these groups share.
    """
    own: dict[int, int] = {}
    total = sum(planner.total for planner in planners)
    left, others, needed = available, total, sum(planner.least for planner in planners)
    singles = [(planner.total, index) for index, planner in enumerate(planners) if len(planner.weights) == 1]
    for size, index in sorted(singles):
        planner = planners[index]
        if planner.weights[0].std == 0:
            # Plus its zero factor. A fit keeps the factor at zero, so the group gets only its minimum.
            size = planner.least if planner.options.init == "fit" else size + 1
        left, others, needed = left - size, others - size, needed - planner.least
        if left < max(needed, available / total * others / 2):
            break
        if planner.least <= size <= planner.most:
            own[index] = size
    return own


def _proportional(sizes: Sequence[int], available: int, bounds: Sequence[tuple[int, int]]) -> list[int]:
    """Split ``available`` in proportion to ``sizes`` within bounds: those that meet a bound get it, the rest share."""
    shares: dict[int, int] = {}
    while len(shares) < len(sizes):
        open_ = [index for index in range(len(sizes)) if index not in shares]
        ratio = (available - sum(shares.values())) / sum(sizes[index] for index in open_)
        below = {index: bounds[index][0] for index in open_ if ratio * sizes[index] < bounds[index][0]}
        above = {index: bounds[index][1] for index in open_ if ratio * sizes[index] > bounds[index][1]}
        shares |= below or above or {index: int(ratio * sizes[index]) for index in open_}
    return [shares[index] for index in range(len(sizes))]
