"""A picture of a mapping: which layer draws on which part of which store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from shapeshift.errors import MissingExtraError
from shapeshift.plan import Plan
from shapeshift.report import GroupReport, Report, WeightReport, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"none": "#4a9d7c", "down": "#3f6fb5", "up": "#e0923a", "down+up": "#a3599c"}
_LEGEND = {
    "none": "one template, read as it is",
    "down": "several templates, mixed",
    "up": "one template, stretched",
    "down+up": "several templates, mixed and stretched",
}
_INK, _STORE = "#303338", "#e9ecef"

_WIDTH = 10.0  # inches
_ROW = 0.17  # inches: a name of 7 points fits
# Beyond this many rows the picture stops growing: rows get thinner, and only every few of them bear a name.
_TALLEST = 150
# However small a store, its templates are to be told apart.
_NARROWEST = 0.15
_SHORTEST = 0.002


def plot_mapping(model: nn.Module | Plan | Report, path: str | os.PathLike[str]) -> None:
    """Draw which layer draws on which part of which store.

    Each parameter group is a block with one row per layer, in the model's order. The grey band is the store, as long
    as the square root of its size, and the bars in a row are the layer's templates, one under the other.

    Args:
        model: a compressed model, a plan, or the report of either.
        path: the image to write; its suffix names the format, such as .png.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ModelError: if the model is not compressed.
    """
    found = model if isinstance(model, Report) else report(model)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a picture of the mapping", "plot") from None

    rows = sum(len(group.weights) + 2 for group in found.groups)
    # Outside of pyplot: it needs no display, and leaves the user's own figures alone.
    figure = Figure(figsize=(_WIDTH, 1.1 + _ROW * min(rows, _TALLEST)), layout="constrained")
    axes = figure.add_subplot()
    largest = max(sum(group.stores.values()) for group in found.groups)
    names: dict[float, str] = {}
    top = 0
    for group in found.groups:
        scale = max(_NARROWEST, (sum(group.stores.values()) / largest) ** 0.5)
        _draw_header(axes, top, group, found)
        for place, weight in enumerate(group.weights, start=top + 1):
            _draw_weight(axes, place, group, weight, scale)
            names[place] = weight.name
        top += len(group.weights) + 2
    _finish(axes, names, rows, found)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.2)


def _draw_header(axes: Axes, top: float, group: GroupReport, found: Report) -> None:
    layers = f"{len(group.weights)} layer{'s' * (len(group.weights) > 1)}"
    text = f"{group.parameters:,} parameters, {group.parameters / found.budget:.2%} of the budget, for {layers} of "
    text += f"{group.dense:,} in all" if len(group.weights) > 1 else f"{group.dense:,}"
    style: dict[str, Any] = {"va": "center", "color": _INK, "annotation_clip": False}
    axes.annotate(group.name, (0, top), fontsize=8, fontweight="bold", **style)
    axes.annotate(text, (1, top), ha="right", fontsize=7, alpha=0.75, **style)


def _draw_weight(axes: Axes, place: float, group: GroupReport, weight: WeightReport, scale: float) -> None:
    """Draw one row: the stores end to end, and the weight's templates on them."""
    total = sum(group.stores.values())
    begins, cursor = {}, 0
    for store, size in group.stores.items():
        begins[store] = cursor
        axes.broken_barh([(scale * cursor / total, scale * size / total)], (place - 0.42, 0.84), color=_STORE, lw=0)
        cursor += size
    templates = weight.source.templates
    height = 0.84 / len(templates)
    for k, window in enumerate(templates):
        begin, length = begins[window.store] + window.begin, window.end - window.begin
        axes.broken_barh(
            [(scale * begin / total, max(_SHORTEST, scale * length / total))],
            (place - 0.42 + k * height, height * (0.9 if len(templates) > 1 else 1)),
            color=_COLORS[weight.source.sampling],
            lw=0,
        )


def _finish(axes: Axes, names: dict[float, str], rows: int, found: Report) -> None:
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
        axes.broken_barh([], (0, 0), color=_COLORS[kind], label=_LEGEND[kind])
    axes.figure.legend(loc="outside lower left", ncols=len(kinds), frameon=False, fontsize=8)
    share = found.parameters / found.dense
    axes.set_title(
        f"{found.parameters:,} parameters instead of {found.dense:,} ({share:.1%})",
        loc="left",
        fontsize=11,
        color=_INK,
        pad=10,
    )
