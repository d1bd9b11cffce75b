"""Learning rates of SGD for plain and shared parameters, on validation images."""

from __future__ import annotations

from benchmarks.experiments.classification import quick, validated
from benchmarks.experiments.networks import WRN_16_1, WRN_16_QUARTER, compressed, dense, reduced
from benchmarks.row import Row, around_rate
from benchmarks.table import Table

RATE = 0.2

TABLE = Table(
    name="sgd_rates",
    title="Rates of SGD",
    source="Whether plain and shared parameters want other rates",
    expectation=(
        "WRN-16-1 with its own parameters, thinner, and with 7% of them, and WRN-16-0.25 with its own parameters and "
        "with four times as many, at rates of 0.1, 0.2 and 0.4, tested on 5,000 validation images."
    ),
    rows=tuple(
        tried
        for row in (
            Row(WRN_16_1, "dense", "", dense),
            Row(WRN_16_1, "reduced", "12k", reduced),
            Row(WRN_16_1, "compressed", "12k", compressed),
            Row(WRN_16_QUARTER, "dense", "", dense),
            Row(WRN_16_QUARTER, "compressed", "4x", compressed),
        )
        for tried in around_rate(row, RATE)
    ),
    adapt=validated(quick),
)
