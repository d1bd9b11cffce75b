"""The runs of a table on one data set and device, looked up in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.claims import Comparison
from benchmarks.experiments.base import Metric
from benchmarks.runs import Run, RunStore
from benchmarks.table import Table
from benchmarks.task import Task


@dataclass(frozen=True)
class TableRuns:
    """The runs of a table on one task.

    Attributes:
        table: The table.
        task: The task: the data set, the recipe and the device.
        runs: The runs of each row, by the row's key.
    """

    table: Table
    task: Task
    runs: dict[str, list[Run]]

    @classmethod
    def find(cls, table: Table, task: Task, store: RunStore) -> TableRuns:
        """Look up the runs of every row."""
        return cls(table, task, {row.key: store.find(table.settings(row, task)) for row in table.rows})

    @property
    def name(self) -> str:
        """The name of the table's files."""
        return f"{self.table.name}_{self.task.data}_{self.task.device}"

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes of the data.

        Raises:
            ValueError: If the runs were made on data of several sizes.
        """
        first, *others = [run.sizes for runs in self.runs.values() for run in runs]
        if any(sizes != first for sizes in others):
            raise ValueError(
                f"{self.name} has runs on data of several sizes, which cannot stand in one table; repeat all rows with "
                f"`python -m benchmarks run {self.table.name} --again '*'`"
            )
        return first

    @property
    def processors(self) -> list[str]:
        """The processors that the runs were made on, each once."""
        return list(dict.fromkeys(run.machine["processor"] for runs in self.runs.values() for run in runs))

    def has(self, row: str) -> bool:
        """Tell whether a row has runs."""
        return bool(self.runs[row])

    def values(self, row: str, metric: Metric) -> list[float]:
        """Return a metric of a row's runs, one value for each seed."""
        return [run.values[metric.name] for run in self.runs[row]]

    def compare(self, first: str, second: str, metric: Metric) -> Comparison:
        """Compare a metric of two rows seed by seed, over the seeds that both have, at least one."""
        values = ({run.seed: run.values[metric.name] for run in self.runs[row]} for row in (first, second))
        one, other = values
        sign = 1 if metric.higher_is_better else -1
        differences = tuple(sign * (one[seed] - other[seed]) for seed in one if seed in other)
        return Comparison(differences, metric.margin, metric.digits)

    def parameters(self, row: str) -> int:
        """Return the number of trainable parameters of a row that has runs."""
        return int(self.runs[row][0].values["parameters"])


def find_table_runs(table: Table, store: RunStore) -> Iterator[TableRuns]:
    """Yield the runs of a table on each data set and device that it has runs on."""
    tasks = {(run.settings["data"]["name"], run.settings["device"]) for run in store.runs.values()}
    for data in table.experiment.datasets:
        for device in ("cpu", "cuda"):
            if (data, device) in tasks:
                found = TableRuns.find(table, table.task(data, device), store)
                if any(found.runs.values()):
                    yield found


def stale_runs(asking: Iterable[TableRuns], store: RunStore) -> list[str]:
    """Return the names of the runs that none of some tables has."""
    asked = {run.name for found in asking for runs in found.runs.values() for run in runs}
    return [name for name in store.runs if name not in asked]
