"""Curves of training through the phases of a curriculum, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shapeshift.extras import new_figure, save_figure

# For each seed the values after each epoch, phase by phase.
Curves = Sequence[Sequence[Sequence[float]]]


def plot_phases(panels: Mapping[str, Mapping[str, Curves]], phases: Sequence[str], path: Path) -> None:
    """Draw a panel per measure, and in it the mean of each method's curves, and the range of its seeds.

    Args:
        panels: The curves, by the title of the measure and the name of the method.
        phases: The names of the phases.
        path: The image to write.
    """
    figure = new_figure(8, 3 * len(panels))
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)
    for axes, (title, methods) in zip(rows[:, 0], panels.items(), strict=True):
        for method, curves in methods.items():
            values = np.array(curves)  # seeds x phases x epochs
            epochs = values.shape[2]
            values = values.reshape(len(values), -1)
            steps = np.arange(1, values.shape[1] + 1)
            (line,) = axes.plot(steps, values.mean(0), marker=".", markersize=3, linewidth=1, label=method)
            axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
        for index, phase in enumerate(phases):
            axes.axvline(index * epochs + 0.5, color="grey", linewidth=0.5)
            axes.annotate(phase, (index * epochs + 0.7, 1.01), xycoords=("data", "axes fraction"), fontsize="x-small")
        axes.set(ylabel=title, xlim=(0.5, epochs * len(phases) + 0.5))
        axes.grid(alpha=0.3)
    rows[-1, 0].set_xlabel("epochs")
    rows[0, 0].legend(fontsize="small", loc="lower right")
    save_figure(figure, path)
