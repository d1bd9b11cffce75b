"""What a benchmark trains and measures."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
        metrics: what a run measures; claims are judged by the first, unless they name another.
        datasets: names of the data sets; the first is the default.
        picture: what :meth:`draw` shows; empty for no picture.
    """

    metrics: tuple[Metric, ...]
    datasets: tuple[str, ...]
    picture: str = ""

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

    def draw(self, runs: Mapping[str, Sequence[Mapping[str, Any]]], data: Mapping[str, Any], path: Path) -> None:
        """Draw what runs hold beside the metrics.

        Args:
            runs: of each row, by its method.
            data: what :meth:`describe` returned, and the name of the data set.
            path: the image to write.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no picture")

    def settings(self, task: Task) -> dict[str, Any]:
        """Return what runs depend on, as JSON gives it back."""
        data = {"name": task.data, **self.describe(task)}
        found = {"data": data, "device": task.device, "recipe": asdict(task.recipe)}
        settings: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists
        return settings
