"""Plot test errors against parameters, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapeshift.extras import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE = 0.045  # the height of a label, as a share of the axes


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds, or 0 for a single seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def plot_errors(
    lines: Mapping[str, Sequence[tuple[int, Sequence[float]]]], title: str, path: Path, label: str = "test error, %"
) -> None:
    """Draw one line per method, with the standard deviation over seeds as bars.

    Args:
        lines: The points of each method: a number of parameters, and the measured values of all seeds.
        title: The title of the figure.
        path: The image file to write. Its folder is made if it does not exist.
        label: The label of the measured values, with their unit.
    """
    figure = new_figure(7, 4.5)
    from matplotlib.ticker import EngFormatter, LogLocator

    axes = figure.add_subplot()
    for method, points in lines.items():
        sizes, values = zip(*sorted(points), strict=True)
        means, spreads = [statistics.mean(found) for found in values], [spread(found) for found in values]
        axes.errorbar(sizes, means, spreads, marker="o", markersize=4, capsize=2, label=method)
    axes.set(xscale="log", xlabel="trainable parameters", ylabel=label, title=title)
    numbers = EngFormatter(sep="")  # 20k
    axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.xaxis.set_major_formatter(numbers)
    axes.xaxis.set_minor_formatter(numbers)
    axes.grid(alpha=0.3)
    label_lines(axes)
    save_figure(figure, path)


def label_lines(axes: Axes) -> None:
    """Write the label of each line beside the axes, in the line's colour and as near to its end as others allow."""
    axes.autoscale_view()
    ends = []
    for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
        drawn: Any = line[0] if isinstance(line, tuple) else line  # a line with bars is a tuple of its parts
        end = axes.transAxes.inverted().transform(axes.transData.transform(drawn.get_xydata()[-1]))
        ends.append((min(max(float(end[1]), 0.0), 1.0), label, drawn.get_color()))
    free = 0.0
    for place, (height, label, color) in enumerate(sorted(ends)):
        above = _LINE * (len(ends) - place)  # what the labels above it need
        free = max(free, min(height, 1 + _LINE - above))
        axes.annotate(label, (1.02, free), xycoords="axes fraction", color=color, fontsize="small", va="center")
        free += _LINE
