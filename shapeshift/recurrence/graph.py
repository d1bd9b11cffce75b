"""A picture of a recurrent network: its blocks, the ways through them, and the loops."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shapeshift.errors import ModelError
from shapeshift.extras import new_figure
from shapeshift.recurrence.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BOX, _LOOP, _INK = "#eef1f5", "#c2502e", "#303338"
_WIDTH, _HEIGHT = 0.62, 0.5  # of a box, where boxes are 1 apart
_SQUARE = 0.11


def plot_schedules(schedules: Sequence[Schedule], path: str | os.PathLike[str]) -> None:
    """Draw one graph for each stage: boxes are blocks, equal squares in them are equal weights, arrows the order.

    Args:
        schedules: what runs when.
        path: the image to write; its suffix names the format, such as .png.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ModelError: if there is no stage to draw.
    """
    if not schedules:
        raise ModelError("there is no row of blocks that are built alike, so there is nothing to draw")
    widest = max(len(set(schedule.blocks)) for schedule in schedules)
    figure = new_figure(1.4 * widest, 2.4 * len(schedules))
    for axes, schedule in zip(figure.subplots(len(schedules), squeeze=False)[:, 0], schedules, strict=True):
        _draw(axes, schedule)
        axes.set(xlim=(-0.8, widest - 0.2), ylim=(-0.75, 0.85), aspect="equal", anchor="W")
        axes.set_axis_off()
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.1)


def _draw(axes: Axes, schedule: Schedule) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    places = {block: place for place, block in enumerate(dict.fromkeys(schedule.blocks))}
    steps, blocks = len(schedule.blocks), len(places)
    axes.set_title(
        f"{schedule.stage}: {steps} steps, {blocks} block{'s' * (blocks > 1)}", loc="left", fontsize=9, color=_INK
    )
    for block, place in places.items():
        corner = (place - _WIDTH / 2, -_HEIGHT / 2)
        box = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch(corner, _WIDTH, _HEIGHT, boxstyle=box, facecolor=_BOX, edgecolor=_INK))
        axes.text(place, 0.07, schedule.steps[block], ha="center", va="center", fontsize=7, color=_INK)
        weights = schedule.weights[block]
        side = min(_SQUARE, 0.8 * _WIDTH / len(weights))
        left = place - side * (1.25 * len(weights) - 0.25) / 2
        for index, weight in enumerate(weights):
            axes.add_patch(Rectangle((left + 1.25 * side * index, -0.17), side, side, facecolor=_color(weight)))
    first, last = places[schedule.blocks[0]], places[schedule.blocks[-1]]
    _arrow(axes, (first - 0.75, 0), (first - _WIDTH / 2, 0), _INK, 0)
    if last == blocks - 1:
        _arrow(axes, (last + _WIDTH / 2, 0), (last + 0.75, 0), _INK, 0)
    else:
        _arrow(axes, (last, -_HEIGHT / 2), (last, -0.7), _INK, 0)
    ways = Counter(itertools.pairwise(places[block] for block in schedule.blocks))
    for (here, there), times in ways.items():
        _way(axes, here, there, times)


def _way(axes: Axes, here: int, there: int, times: int) -> None:
    """Draw the arrow from one block to the next one that runs: forward straight or below, back and round above."""
    text = f"{times}x" if times > 1 else ""
    if here == there:
        _arrow(axes, (here - 0.15, _HEIGHT / 2), (here + 0.15, _HEIGHT / 2), _LOOP, -1.6)
        axes.text(here, 0.58, text, ha="center", fontsize=8, color=_LOOP)
    elif there < here:
        _arrow(axes, (here, _HEIGHT / 2), (there, _HEIGHT / 2), _LOOP, 0.5 / (here - there))
        axes.text((here + there) / 2, 0.58, text, ha="center", fontsize=8, color=_LOOP)
    elif there == here + 1:
        _arrow(axes, (here + _WIDTH / 2, 0), (there - _WIDTH / 2, 0), _INK, 0)
        axes.text((here + there) / 2, 0.06, text, ha="center", fontsize=8, color=_INK)
    else:
        _arrow(axes, (here, -_HEIGHT / 2), (there, -_HEIGHT / 2), _INK, 0.5 / (there - here))
        axes.text((here + there) / 2, -0.62, text, ha="center", fontsize=8, color=_INK)


def _arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], color: str, bend: float) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            begin,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=9,
            shrinkA=0,
            shrinkB=0,
            color=color,
        )
    )


def _color(weight: int) -> str:
    return f"C{weight % 10}"
