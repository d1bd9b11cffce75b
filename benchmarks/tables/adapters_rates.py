"""Learning rates of adapters, on validation text."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.experiments.adapters import Adapters
from benchmarks.row import around_rate
from benchmarks.table import Table
from benchmarks.tables.adapters import RATES, ROWS
from benchmarks.task import Task


def _validated(task: Task) -> Task:
    """Score a part of the training text, which is left out of it."""
    return replace(task, options={**task.options, "validation": 1, "scored": 1 << 15})


TABLE = Table(
    name="adapters_rates",
    title="Rates of adapters",
    source="How the rates of the table above were chosen",
    expectation=(
        "Each method at each budget, at half of the rate of the table above, at that rate and at twice that rate, for "
        "60 steps, scored on validation text. The rate of the table is expected to be the best one or nearly so."
    ),
    rows=tuple(
        tried
        for row in ROWS
        if row.method in RATES
        for tried in around_rate(row, RATES[row.method][row.budget], steps=60)
    ),
    experiment=Adapters(),
    adapt=_validated,
)
