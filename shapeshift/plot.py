"""A picture of a mapping: which layer reads which part of which store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from shapeshift.extras import new_figure
from shapeshift.mapping_layout import COLORS, LEGEND, Bar, bars
from shapeshift.plan import Plan
from shapeshift.report import GroupReport, Report, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#303338"

_WIDTH = 10.0  # inches
_ROW = 0.17  # inches: a name of 7 points fits
# Beyond this many rows the picture stops growing: rows get thinner, and only every few of them bear a name.
_TALLEST = 150


def plot_mapping(model: nn.Module | Plan | Report, path: str | os.PathLike[str]) -> None:
    """Draw which layer reads which part of which store.

    Each parameter group is a block with one row per layer, in the model's order. The grey band is the store, as long
    as the square root of its size, and the bars in a row are the layer's templates, one under the other.

    Args:
        model: A compressed model, a plan, or the report of either.
        path: The image to write. Its suffix names the format, such as .png.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ModelError: if the model is not compressed.

    Example:
        >>> import os, tempfile, torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> file = os.path.join(tempfile.mkdtemp(), "mapping.png")
        >>> shapeshift.plot_mapping(shapeshift.plan_compression(model, "25%"), file)
        >>> os.path.exists(file)
        True
    """
    found = model if isinstance(model, Report) else report(model)
    rows = sum(len(group.weights) + 2 for group in found.groups)
    figure = new_figure(_WIDTH, 1.1 + _ROW * min(rows, _TALLEST))
    axes = figure.add_subplot()
    names: dict[int, str] = {}
    top = 0
    for group in found.groups:
        _write_header(axes, top, group, found)
        names |= {place: weight.name for place, weight in enumerate(group.weights, start=top + 1)}
        top += len(group.weights) + 2
    _draw(axes, bars(found))
    _finish(axes, names, rows, found)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.2)


def _draw(axes: Axes, shapes: Sequence[Bar]) -> None:
    from matplotlib.collections import PolyCollection

    # All bars in one collection: one for each would take minutes for a deep model.
    corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h, _ in shapes]
    axes.add_collection(PolyCollection(corners, facecolors=[bar.color for bar in shapes], linewidths=0))


def _write_header(axes: Axes, top: float, group: GroupReport, found: Report) -> None:
    layers = f"{len(group.weights)} layer{'s' * (len(group.weights) > 1)}"
    text = f"{group.parameters:,} parameters, {group.parameters / found.budget:.2%} of the budget, for {layers} of "
    text += f"{group.dense:,} in all" if len(group.weights) > 1 else f"{group.dense:,}"
    style: dict[str, Any] = {"va": "center", "color": _INK, "annotation_clip": False}
    axes.annotate(group.name, (0, top), fontsize=8, fontweight="bold", **style)
    axes.annotate(text, (1, top), ha="right", fontsize=7, alpha=0.75, **style)


def _finish(axes: Axes, names: dict[int, str], rows: int, found: Report) -> None:
    """Set the names, the legend and the title."""
    every = -(-rows // _TALLEST)
    shown = dict(list(names.items())[::every])
    axes.set_yticks(list(shown), list(shown.values()), fontsize=7, color=_INK)
    axes.set_ylim(rows - 1.5, -0.7)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    kinds = sorted({weight.source.sampling for group in found.groups for weight in group.weights})
    for kind in kinds:
        axes.bar(0, 0, color=COLORS[kind], label=LEGEND[kind])
    axes.figure.legend(loc="outside lower left", ncols=len(kinds), frameon=False, fontsize=8)
    share = found.parameters / found.dense
    axes.set_title(
        f"{found.parameters:,} parameters instead of {found.dense:,} ({share:.1%})",
        loc="left",
        fontsize=11,
        color=_INK,
        pad=10,
    )
