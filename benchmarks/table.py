"""A table of results: the rows to train, and the claims about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.base import Experiment
from benchmarks.experiments.classification import CLASSIFICATION
from benchmarks.row import Row
from benchmarks.task import Task


@dataclass(frozen=True)
class Table:
    """A table of a paper, or of our own.

    Attributes:
        name: The name on the command line and in the names of files.
        title: The title, one line.
        source: The paper and its table, or another origin.
        expectation: A paragraph of Markdown on the rows and on what is expected of them.
        rows: The rows, in the order of the table.
        claims: The claims that are judged by the runs.
        experiment: The experiment that trains and measures every row.
        adapt: A function that changes the experiment's task. By default, the task stays as it is.
        line: The fields of a row whose values name its line in the picture of the first metric against parameters.
            Empty means no picture.
        recipe: The name of the paper's recipe that the table is run under, which its name ends in. Empty means ours.

    Raises:
        ValueError: If two rows have one key, or a claim names a row that the table does not have.
    """

    name: str
    title: str
    source: str
    expectation: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    experiment: Experiment = CLASSIFICATION
    adapt: Callable[[Task], Task] = lambda task: task
    line: tuple[str, ...] = ()
    recipe: str = ""

    def __post_init__(self) -> None:
        counts = Counter(row.key for row in self.rows)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"{self.name} has two rows of one name: {', '.join(twice)}")
        missing = {key for claim in self.claims for pair in claim.pairs for key in pair} - set(counts)
        if missing:
            raise ValueError(f"{self.name} makes claims about rows that it does not have: {', '.join(sorted(missing))}")

    @property
    def command(self) -> str:
        """The command that runs the table on its default data set."""
        recipe = f" --recipe {self.recipe}" if self.recipe else ""
        return f"python -m benchmarks run {self.name.removesuffix(f'_{self.recipe}')}{recipe}"

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        """Return the table's task on a data set and a device."""
        return self.adapt(self.experiment.task(data, device, data_dir))

    def settings(self, row: Row, task: Task) -> dict[str, Any]:
        """Return everything that determines the runs of a row, except for their seeds, as JSON holds it."""
        settings: dict[str, Any] = json.loads(json.dumps({**self.experiment.settings(task), **row.settings}))
        return settings


def pairs(rows: Sequence[Row], first: str, second: str) -> tuple[tuple[str, str], ...]:
    """Pair the keys of two methods' rows on the same network and at the same budget.

    Args:
        rows: The rows to choose from.
        first: The method that is expected to be ahead.
        second: The other method. A row without a budget, such as the dense network, is paired with every budget.
    """
    return tuple(
        (one.key, other.key)
        for one in rows
        for other in rows
        if (one.method, other.method, one.network) == (first, second, other.network)
        and (one.budget == other.budget or not one.budget or not other.budget)
    )
