"""Learning rates of vision transformers, on validation images."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.row import around_rate
from benchmarks.table import Table
from benchmarks.tables.vision_transformers import RATES, ROWS, with_adamw
from benchmarks.task import Task


def _validated(task: Task) -> Task:
    """Test on training images, which are left out of the training."""
    task = with_adamw(task)
    return replace(task, options={**task.options, "validation": 5_000})


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
        for tried in around_rate(next(row for row in ROWS if row.method == method and row.budget != "200%"), rate)
    ),
    adapt=_validated,
)
