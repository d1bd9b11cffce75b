"""A tiny table, and runs of it that nobody trained."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims import Claim
from benchmarks.experiments.classification import CLASSIFICATION
from benchmarks.experiments.networks import WideNetwork, compressed, dense
from benchmarks.row import Row
from benchmarks.runs import Run, RunStore
from benchmarks.table import Table, pairs
from benchmarks.table_runs import TableRuns
from benchmarks.task import Task
from shapeshift.experiments.training import Recipe

TINY = WideNetwork(10, 0.25, stem=8)
ROWS = (Row(TINY, "dense", "", dense), Row(TINY, "compressed", "50%", compressed, {"mapping": "single"}))
TABLE = Table(
    name="tiny",
    title="Tiny networks",
    source="Nobody",
    expectation="Anything.",
    rows=ROWS,
    claims=(Claim("Less is more", pairs(ROWS, "compressed", "dense")),),
    line=("method",),
)
TASK = Task("digits", Recipe(epochs=2))
SIZES = CLASSIFICATION.describe(TASK)


def made_up(errors: dict[str, list[float]], folder: Path, table: Table = TABLE) -> RunStore:
    """Make a store with runs of the given errors for each row's key."""
    store = RunStore(folder)
    for row in table.rows:
        for seed, error in enumerate(errors.get(row.key, [])):
            values = {"parameters": 1234, "error": error}
            store.add(Run(table.settings(row, TASK), seed, SIZES, {"processor": "a machine"}, values))
    return store


def found(errors: dict[str, list[float]], folder: Path, table: Table = TABLE) -> TableRuns:
    """Make the runs of a table, with the given errors for each row's key."""
    return TableRuns.find(table, TASK, made_up(errors, folder, table))
