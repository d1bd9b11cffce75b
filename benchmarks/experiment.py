"""What a benchmark trains and measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.row import Row
from benchmarks.task import Task


@dataclass(frozen=True)
class Metric:
    """A number that each run ends with.

    Attributes:
        name: its key in a run.
        title: the head of its column, with the unit.
        higher_is_better: of two values; by default the lower one is.
    """

    name: str
    title: str
    higher_is_better: bool = False


class Experiment(ABC):
    """A kind of benchmark: which data sets there are, how a network is trained on them, and what is measured.

    Attributes:
        metrics: what a run measures; the expected orderings are judged by the first.
        datasets: names of the data sets; the first is the default.
    """

    metrics: tuple[Metric, ...]
    datasets: tuple[str, ...]

    @abstractmethod
    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        """Choose the size of a data set and the recipe on a device."""

    @abstractmethod
    def describe(self, task: Task) -> dict[str, Any]:
        """Return the sizes of a task's data, as a dict that JSON can hold."""

    @abstractmethod
    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        """Tell in a clause what was trained on, and how long.

        Args:
            data: what :meth:`describe` returned, and the name of the data set.
            recipe: the fields of the task's recipe.
        """

    @abstractmethod
    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        """Train the network of a row, and return its number of "parameters" and each metric.

        Args:
            row: what is trained.
            task: what it is trained on.
            seed: of the order of the data; torch has been seeded with it.
        """

    def settings(self, task: Task) -> dict[str, Any]:
        """Return what runs depend on, as a dict that JSON can hold."""
        data = {"name": task.data, **self.describe(task)}
        return {"data": data, "device": task.device, "recipe": asdict(task.recipe)}
