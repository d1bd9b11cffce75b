"""Test error against parameters, over seeds: the picture that every comparison of networks ends with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from shapeshift.extras import new_figure


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds, 0 for a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def plot_errors(
    lines: Mapping[str, Sequence[tuple[int, Sequence[float]]]], title: str, path: Path, label: str = "test error, %"
) -> None:
    """Draw one line per method, with the standard deviation over seeds as bars.

    Args:
        lines: for each method its points, of a number of parameters and what all seeds measured.
        title: above the picture.
        path: the image to write.
        label: what was measured, with its unit.
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
