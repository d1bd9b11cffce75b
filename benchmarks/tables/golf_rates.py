"""Learning rates of language models in files, on validation text."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.experiments.golf import Golf
from benchmarks.row import around_rate
from benchmarks.table import Table
from benchmarks.tables.golf import BATCHES, CONTEST, RATES, ROWS, THIN
from benchmarks.task import Task


def _validated(task: Task) -> Task:
    """Score a part of the training text, which is left out of it."""
    return replace(task, options={**task.options, "validation": 1})


TABLE = Table(
    name="golf_rates",
    title="Rates of language models in a file",
    source="How the rates of the table above were chosen",
    expectation=(
        "The thin network and one that shares by the contest's rules, at half the rate of the table above, at that "
        "rate and at twice the rate, for 300 steps, scored on validation text. The rate of the table is expected to be "
        "the best one or nearly so."
    ),
    rows=tuple(
        tried
        for row in ROWS
        if row.method in (THIN, CONTEST)
        for tried in around_rate(row, RATES[row.budget], steps=300, **BATCHES[row.budget])
    ),
    experiment=Golf(),
    adapt=_validated,
)
