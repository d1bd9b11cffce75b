"""Classifiers and their test errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import shapeshift
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.networks import Training
from benchmarks.experiments.resumable import train
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.experiments.data import DATASETS, Images
from shapeshift.experiments.training import Recipe, error

ERROR = Metric("error", "test error, %")
BEFORE = Metric("before", "before training, %")  # of networks that are trained already when they are made smaller


class Classification(Experiment):
    """Train a classifier, and measure its test error.

    Args:
        metrics: The metrics of the trained classifier.
    """

    def __init__(self, metrics: tuple[Metric, ...] = (ERROR,)) -> None:
        self.metrics = metrics

    @abstractmethod
    def load(self, task: Task) -> tuple[Any, Any]:
        """Load the training set and the test set of a task, both :class:`Labelled`, on the CPU."""

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        data, test = self.load(task)
        training = Training(data, task.recipe, seed, task.device)
        model = row.build(row.network, row.budget, training, **row.options).to(task.device)
        found: dict[str, Any] = {"parameters": shapeshift.count_parameters(model)}
        if BEFORE in self.metrics:
            found[BEFORE.name] = self._error(model, training, test)
        distiller = row.distillation.start(model, training) if row.distillation else None
        train(model, data, replace(task.recipe, **row.recipe), seed, "row", distiller=distiller)
        return {**found, "error": self._error(model, training, test)}

    def _error(self, model: nn.Module, training: Training, test: Any) -> float:
        if BEFORE in self.metrics:
            # After the few steps of such a training, running averages would be those of earlier weights.
            update_bn(training.data.inputs.split(training.recipe.batch_size), model, torch.device(training.device))
        return error(model, test)


class ImageClassification(Classification):
    """Train a classifier of images, and measure its test error."""

    datasets = ("digits", *(name for name in DATASETS if name != "digits"))

    def load(self, task: Task) -> tuple[Images, Images]:
        return _load(task.data, task.data_dir, tuple(task.options.items()))

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        # Digits take seconds on a CPU. The other data sets are of the size of CIFAR, and meant for a GPU; on a CPU the
        # glyphs are fewer, smaller and of fewer characters, so that most tables end within half an hour on two cores;
        # in so few steps SGD does not get networks of shared parameters off the ground for every seed. A fifth of the
        # training images of Fashion-MNIST takes a small network minutes; all test images tell networks apart.
        if data == "digits":
            return Task(data, Recipe(), {}, device, data_dir)
        if data == "glyphs" and device == "cpu":
            options = {"train": 4_000, "test": 2_000, "classes": 10, "side": 16}
            recipe = Recipe(epochs=10, optimizer="adamw", learning_rate=0.005, weight_decay=0.05)
            return Task(data, recipe, options, device, data_dir)
        if data == "fashion_mnist" and device == "cpu":
            return Task(data, Recipe(epochs=10), {"train": 12_000}, device, data_dir)
        return Task(data, Recipe(epochs=60, batch_size=128), {}, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        training, test = self.load(task)
        return {
            "train": len(training.labels),
            "test": len(test.labels),
            "classes": training.num_classes,
            "shape": list(training.images.shape[1:]),
        }

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        return (
            f"{data['train']:,} training and {data['test']:,} test images of shape "
            f"{' x '.join(map(str, data['shape']))} in {data['classes']} classes, {recipe['epochs']} epochs in batches "
            f"of {recipe['batch_size']}{', in bfloat16' if recipe['bfloat16'] else ''}"
        )


CLASSIFICATION = ImageClassification()


@lru_cache(maxsize=1)
def _load(data: str, data_dir: Path | None, options: tuple[tuple[str, int], ...]) -> tuple[Images, Images]:
    return DATASETS[data](data_dir, **dict(options))


def quick(task: Task) -> Task:
    """Train on 300 digits, so that small networks have something left to learn, or on clothes in bfloat16.

    A CPU that multiplies in bfloat16 trains a network on clothes in about half the time.
    """
    if task.data == "digits":
        return replace(task, options={"train": 300}, recipe=replace(task.recipe, epochs=100))
    if task.data == "fashion_mnist" and task.device == "cpu":
        return replace(task, recipe=replace(task.recipe, bfloat16=True))
    return task


def validated(adapt: Callable[[Task], Task]) -> Callable[[Task], Task]:
    """Adapt a task, and test on 5,000 training images of the clothes, which are left out of the training."""

    def adapted(task: Task) -> Task:
        task = adapt(task)
        return replace(task, options={**task.options, "validation": 5_000})

    return adapted
