"""Test error against the parameter budget, of the default config and of configs next to it."""

from __future__ import annotations

from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.networks import WRN_16_1, WRN_16_QUARTER, Network, compressed, dense, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs

LOW, HIGH = ("6k", "12k", "25k", "50k"), ("100%", "200%", "400%")


def _compressed_rows(network: Network, budget: str) -> list[Row]:
    methods: dict[str, dict[str, Any]] = {"compressed": {}, "compressed, mapping=shape": {"mapping": "shape"}}
    if budget in LOW:  # only there is anything stretched
        methods["compressed, upsample=interpolate"] = {"upsample": "interpolate"}
    return [Row(network, method, budget, compressed, options) for method, options in methods.items()]


def _rows() -> tuple[Row, ...]:
    rows = []
    for budget in LOW:
        rows.append(Row(WRN_16_1, "reduced", budget, reduced))
        rows += _compressed_rows(WRN_16_1, budget)
    for network in (WRN_16_1, WRN_16_QUARTER):
        rows.append(Row(network, "dense", "", dense))
        for budget in HIGH:
            rows += _compressed_rows(network, budget)
    return tuple(rows)


ROWS = _rows()

TABLE = Table(
    name="budget_sweep",
    title="Error against the budget",
    source="How the defaults were chosen",
    expectation=(
        "WRN-16-1 at budgets below its own size against the *reduced baseline*, the same network made thinner until "
        "it fits the budget, and both WRN-16-1 and the thin WRN-16-0.25 at their own size and above. The compressed "
        "rows without a remark are the default config; the others name their difference from it."
    ),
    rows=ROWS,
    claims=(
        Claim("Shared parameters are ahead of a thinner network", pairs(ROWS, "compressed", "reduced")),
        Claim(
            "One store is on par with one per shape or ahead", pairs(ROWS, "compressed", "compressed, mapping=shape")
        ),
        Claim(
            "More parameters than its own help a network",
            tuple((f"{WRN_16_QUARTER}/compressed/{budget}", f"{WRN_16_QUARTER}/dense/") for budget in HIGH[1:]),
        ),
        Claim(
            "Tiling is on par with interpolation or ahead",
            pairs(ROWS, "compressed", "compressed, upsample=interpolate"),
        ),
    ),
    line=("network", "method"),
)
