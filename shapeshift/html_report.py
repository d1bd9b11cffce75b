"""A report as HTML: totals, the budget, and the part of a store that each weight reads; no script, nothing to load."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from shapeshift.mapping_layout import COLORS, LEGEND, STORE_COLOR, weight_bars

if TYPE_CHECKING:
    from shapeshift.report import GroupReport, Report, WeightReport

# Colors come from the page around it, so that both themes can be read.
_STYLE = """
.shapeshift-report { max-width: 62rem; overflow-x: auto; font-variant-numeric: tabular-nums; }
.shapeshift-report .budget { height: .6rem; border-radius: .3rem; background: rgb(128 128 128 / .25); }
.shapeshift-report .budget div { height: 100%; border-radius: .3rem; background: #3f6fb5; }
.shapeshift-report summary { cursor: pointer; margin-top: .6rem; }
.shapeshift-report table { border-collapse: collapse; width: 100%; background: none; }
.shapeshift-report th, .shapeshift-report td { padding: .1rem .5rem; text-align: left; white-space: nowrap; }
.shapeshift-report tr { background: none; }
.shapeshift-report td.picture { width: 50%; min-width: 14rem; }
.shapeshift-report svg { display: block; width: 100%; height: 1rem; }
.shapeshift-report .store { fill: rgb(128 128 128 / .25); }
.shapeshift-report i { display: inline-block; width: .7rem; height: .7rem; margin: 0 .3rem 0 .8rem; }
"""


def fragment(found: Report) -> str:
    """Return the report as an element that a notebook or a page can hold."""
    fitted = any(weight.error is not None for group in found.groups for weight in group.weights)
    summary = "<br>".join(escape(line) for line in found.summary().splitlines())
    groups = "".join(_group(found, group, fitted) for group in found.groups)
    kinds = sorted({weight.source.sampling for group in found.groups for weight in group.weights})
    legend = "".join(f'<i style="background: {COLORS[kind]}"></i>{LEGEND[kind]}' for kind in kinds)
    return (
        f'<div class="shapeshift-report"><style>{_STYLE}</style>'
        f"<p>{summary}</p>"
        f'<div class="budget" title="the share of the budget that is used">'
        f'<div style="width: {100 * found.budget_used:.2f}%"></div></div>'
        f"{groups}<p>{legend}</p></div>"
    )


def page(found: Report, title: str) -> str:
    """Return the report as a whole page."""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>:root { color-scheme: light dark; } body { font: 0.95rem system-ui, sans-serif; margin: 2rem; }</style>"
        f"</head><body><h1>{escape(title)}</h1>{fragment(found)}</body></html>\n"
    )


def _group(found: Report, group: GroupReport, fitted: bool) -> str:
    layers = f"{len(group.weights)} layer{'s' * (len(group.weights) > 1)}"
    heads = ["weight", "shape", "reads", *(["error of the fit"] * fitted)]
    rows = "".join(_weight(found, group, weight, fitted) for weight in group.weights)
    return (
        f"<details open><summary><strong>{escape(group.name)}</strong>: {group.parameters:,} parameters, "
        f"{group.parameters / found.budget:.1%} of the budget, for {layers} of {group.dense:,}</summary>"
        f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table></details>"
    )


def _weight(found: Report, group: GroupReport, weight: WeightReport, fitted: bool) -> str:
    parts = ", ".join(f"{store}[{begin:,}:{end:,}]" for store, begin, end in weight.source.templates)
    rectangles = "".join(
        f'<rect x="{bar.left:.5g}" y="{bar.top + 0.5:.5g}" width="{bar.width:.5g}" height="{bar.height:.5g}" '
        + ('class="store"/>' if bar.color == STORE_COLOR else f'fill="{bar.color}"/>')
        for bar in weight_bars(found, group, weight)
    )
    error = "" if weight.error is None else f"{weight.error:.1%}"
    return (
        f"<tr><td>{escape(weight.name)}</td><td>{' x '.join(map(str, weight.shape))}</td>"
        f'<td class="picture"><svg viewBox="0 0 1 1" preserveAspectRatio="none" role="img">'
        f"<title>{escape(parts)}: {LEGEND[weight.source.sampling]}</title>{rectangles}</svg></td>"
        f"{f'<td>{error}</td>' * fitted}</tr>"
    )
