"""Plot test errors against parameters, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from shapeshift.extras import new_figure


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
    axes = figure.add_subplot()
    for method, points in lines.items():
        sizes, values = zip(*sorted(points), strict=True)
        means, spreads = [statistics.mean(found) for found in values], [spread(found) for found in values]
        axes.errorbar(sizes, means, spreads, marker="o", markersize=4, capsize=2, label=method)
    axes.set(xscale="log", xlabel="trainable parameters", ylabel=label, title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
