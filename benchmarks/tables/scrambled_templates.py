"""Whether signs or another order of a template's entries help weights that mix several templates."""

from __future__ import annotations

from typing import Any

from benchmarks.baselines.scrambled_templates import scrambled
from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_QUARTER, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs

WAYS = {"signs": (False, True), "order": (True, False), "order and signs": (True, True)}


def _rows(budget: str, **options: Any) -> tuple[Row, ...]:
    return (
        Row(WRN_16_QUARTER, "wavg", budget, compressed, options),
        *(
            Row(WRN_16_QUARTER, way, budget, scrambled, {"permuted": permuted, "signed": signed, **options})
            for way, (permuted, signed) in WAYS.items()
        ),
    )


ROWS = (Row(WRN_16_QUARTER, "dense", "", dense), *_rows("100%", max_templates=2), *_rows("200%"))

TABLE = Table(
    name="scrambled_templates",
    title="Signs and orders of templates",
    source="Wang et al. 2023, for weights that mix several templates",
    expectation=(
        "A ring gives each entry of a weight a random sign and a random place. Here the same is done to the templates "
        "of a network that mixes each weight from several: from two at its own size, from four at twice its size. "
        "Signs and orders are drawn for each weight and template. Plain templates are expected to be on "
        "par or ahead: coefficients already tell weights apart."
    ),
    rows=ROWS,
    claims=tuple(Claim(f"Plain templates are on par with {way} or ahead", pairs(ROWS, "wavg", way)) for way in WAYS),
    adapt=quick,
)
