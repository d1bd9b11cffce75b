"""Learning rates of students, on validation images."""

from __future__ import annotations

from benchmarks.experiments.classification import quick, validated
from benchmarks.row import around_rate
from benchmarks.table import Table
from benchmarks.tables.distillation import ROWS, STUDENTS
from benchmarks.task import Task
from shapeshift.experiments.training import Recipe


def _quick(task: Task) -> Task:
    return validated(quick(task))


TABLE = Table(
    name="distillation_rates",
    title="Rates of students",
    source="Whether plain and shared parameters want other rates",
    expectation=(
        "One student with its own parameters and with four times as many, each alone and with SRRL, at half of the "
        "rate of the table above, at that rate and at twice that rate, tested on 5,000 validation images. The rate of "
        "the table is expected to be the best one or nearly so."
    ),
    rows=tuple(
        tried
        for row in ROWS
        if row.network is STUDENTS[0] and "OFD" not in row.method
        for tried in around_rate(row, Recipe().learning_rate)
    ),
    adapt=_quick,
)
