"""What networks are trained on: a data set at some size, a recipe, a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from shapeshift.integrations.data import DATASETS, Images
from shapeshift.integrations.training import Recipe


@dataclass(frozen=True)
class Task:
    """A data set, and how networks are trained on it.

    Attributes:
        data: a name in ``DATASETS``.
        recipe: how networks are trained.
        options: what the data set's loader is given by name.
        device: "cpu" or "cuda".
        data_dir: the folder that the loader reads.
    """

    data: str
    recipe: Recipe
    options: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    data_dir: Path | None = None

    def load(self) -> tuple[Images, Images]:
        """Load the training set and the test set, on the CPU."""
        return _load(self.data, self.data_dir, tuple(self.options.items()))

    def settings(self) -> dict[str, Any]:
        """Return what runs depend on, as a dict that JSON can hold; the data set is loaded to describe it."""
        training, test = self.load()
        data = {
            "name": self.data,
            "train": len(training.labels),
            "test": len(test.labels),
            "classes": training.num_classes,
            "shape": list(training.images.shape[1:]),
        }
        return {"data": data, "device": self.device, "recipe": asdict(self.recipe)}


@lru_cache(maxsize=1)
def _load(data: str, data_dir: Path | None, options: tuple[tuple[str, int], ...]) -> tuple[Images, Images]:
    return DATASETS[data](data_dir, **dict(options))


def make_task(data: str, device: str, data_dir: Path | None = None) -> Task:
    """Choose the size of a data set and the recipe on a device.

    Digits take seconds on a CPU. The other data sets are of the size of CIFAR, and meant for a GPU; on a CPU the
    glyphs are fewer, and seen less often, so that one training of WRN-16-1 takes about ten minutes: choose rows.
    """
    if data == "digits":
        return Task(data, Recipe(), {}, device, data_dir)
    if data == "glyphs" and device == "cpu":
        # Batches of 64 at the usual rate learn next to nothing of half as many images in half as many epochs.
        recipe = Recipe(epochs=20, batch_size=32, learning_rate=0.05)
        return Task(data, recipe, {"train": 20_000, "test": 2_000}, device, data_dir)
    return Task(data, Recipe(epochs=60, batch_size=128), {}, device, data_dir)


def few_digits(task: Task) -> Task:
    """Train on 300 digits, and test on the 1497 others, so that small networks have something left to learn."""
    if task.data != "digits":
        return task
    return replace(task, options={"train": 300}, recipe=replace(task.recipe, epochs=100))
