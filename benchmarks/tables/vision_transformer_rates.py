"""Learning rates of vision transformers, on validation images."""

from __future__ import annotations

from benchmarks.experiments.classification import validated
from benchmarks.row import around_rate
from benchmarks.table import Table
from benchmarks.tables.vision_transformers import RATES, ROWS, with_adamw

TABLE = Table(
    name="vision_transformer_rates",
    title="Rates of vision transformers",
    source="How the rates of the table above were chosen",
    expectation=(
        "Each method at the network's own size, or at the next budget, at half of the rate of the table above, at that "
        "rate and at twice that rate, tested on 5,000 validation images. The rate of the table is expected to be the "
        "best one or nearly so."
    ),
    rows=tuple(
        tried
        for method, rate in RATES.items()
        for tried in around_rate(next(row for row in ROWS if row.method == method), rate)
    ),
    adapt=validated(with_adamw),
)
