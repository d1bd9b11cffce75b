"""Learning rates of students, on validation images."""

from __future__ import annotations

from benchmarks.experiments.classification import quick, validated
from benchmarks.row import around_rate
from benchmarks.table import Table
from benchmarks.tables.distillation import ROWS, STUDENTS
from benchmarks.task import Task


RATE = 0.2


def _quick(task: Task) -> Task:
    return validated(quick(task))


TABLE = Table(
    name="distillation_rates",
    title="Rates of students",
    source="Whether plain and shared parameters want other rates",
    expectation=(
        "One student with its own parameters and with four times as many, each alone and with SRRL, at rates of 0.1, "
        "0.2 and 0.4, tested on 5,000 validation images."
    ),
    rows=tuple(
        tried
        for row in ROWS
        if row.network is STUDENTS[0] and "OFD" not in row.method
        for tried in around_rate(row, RATE)
    ),
    adapt=_quick,
)
