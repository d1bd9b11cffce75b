"""Experiments: kinds of training, and their metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.row import Row
from benchmarks.task import Task


@dataclass(frozen=True)
class Metric:
    """A quantity that each run ends with.

    Attributes:
        name: The key of its value in a run.
        title: The head of its column, with the unit.
        higher_is_better: Whether the higher one of two values is better. By default, the lower one is.
        margin: The smallest difference between two rows that matters, in the unit of the metric.
        digits: The number of decimal places that tables show.
    """

    name: str
    title: str
    higher_is_better: bool = False
    margin: float = 0.3
    digits: int = 2


class Experiment(ABC):
    """A kind of training: the data sets, the way a network is trained on them, and the metrics.

    The name of the class is part of a run's settings.

    Attributes:
        metrics: The metrics of a run. Claims are judged by the first one unless they name another.
        datasets: The names of the data sets. The first one is the default.
        picture: A description of the picture that :meth:`draw` makes. Empty means no picture.
    """

    metrics: tuple[Metric, ...]
    datasets: tuple[str, ...]
    picture: str = ""

    @abstractmethod
    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        """Choose the size of a data set and the recipe on a device, without loading the data."""

    @abstractmethod
    def describe(self, task: Task) -> dict[str, Any]:
        """Load a task's data, and return its sizes as a dict that JSON can hold."""

    @abstractmethod
    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        """Return a clause about the data and the length of the training.

        Args:
            data: The sizes that :meth:`describe` returned.
            recipe: The fields of the task's recipe.
        """

    @abstractmethod
    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        """Train the network of a row, and return its number of "parameters" and each metric.

        Args:
            row: The row.
            task: The task that the network is trained on.
            seed: The seed of the order of the data. Torch has been seeded with it.
        """

    def draw(self, runs: Mapping[str, Sequence[Mapping[str, Any]]], data: Mapping[str, Any], path: Path) -> None:
        """Draw what runs hold beside the metrics.

        Args:
            runs: The values of each row's runs, by the row's method.
            data: The sizes that :meth:`describe` returned.
            path: The image to write.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no picture")

    def settings(self, task: Task) -> dict[str, Any]:
        """Return the experiment's and the task's part of what determines a run."""
        return {
            "experiment": type(self).__name__,
            "metrics": [metric.name for metric in self.metrics],
            "data": {"name": task.data, **task.options},
            "device": task.device,
            "recipe": asdict(task.recipe),
        }
