"""Where each layer's bars lie in a picture of the mapping."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shapeshift.report import GroupReport, Report, WeightReport

COLORS = {"none": "#4a9d7c", "down": "#3f6fb5", "up": "#e0923a", "down+up": "#a3599c"}
LEGEND = {
    "none": "one template, read as it is",
    "down": "several templates, mixed",
    "up": "one template, stretched",
    "down+up": "several templates, mixed and stretched",
}
STORE_COLOR = "#e9ecef"

# The least share of the width for a store, and of the height for a template: small ones stay visible.
_NARROWEST = 0.15
_SHORTEST = 0.002
# The filled share of a row's height.
_BAND = 0.84


class Bar(NamedTuple):
    """One rectangle of the picture: across, the longest store is 1 wide; down, each row is 1 high."""

    left: float
    top: float
    width: float
    height: float
    color: str


def bars(found: Report) -> list[Bar]:
    """Lay out the picture: a row for each group's name, one for each of its weights, and an empty one."""
    result = []
    place = 0
    for group in found.groups:
        for row, weight in enumerate(group.weights, start=place + 1):
            result += [bar._replace(top=row + bar.top) for bar in weight_bars(found, group, weight)]
        place += len(group.weights) + 2
    return result


def weight_bars(found: Report, group: GroupReport, weight: WeightReport) -> list[Bar]:
    """Lay out the row of a weight around 0: the group's stores end to end, and the weight's templates on them."""
    largest = max(sum(other.stores.values()) for other in found.groups)
    total = sum(group.stores.values())
    scale = max(_NARROWEST, (total / largest) ** 0.5) / total
    begins = dict(zip(group.stores, [0, *itertools.accumulate(group.stores.values())], strict=False))
    top = -_BAND / 2
    result = [Bar(scale * begins[name], top, scale * size, _BAND, STORE_COLOR) for name, size in group.stores.items()]
    templates = weight.source.templates
    height = _BAND / len(templates)
    # A gap under each template, where there are several.
    thick = height if len(templates) == 1 else 0.9 * height
    for place, (store, begin, end) in enumerate(templates):
        left, width = scale * (begins[store] + begin), max(_SHORTEST, scale * (end - begin))
        result.append(Bar(left, top + place * height, width, thick, COLORS[weight.source.sampling]))
    return result
