"""Networks that find the part of an image that a phrase is about, and their accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.experiments.base import Metric
from benchmarks.experiments.two_branch import Matching, texts_of
from benchmarks.task import Task
from shapeshift.experiments.data import CaptionedImages
from shapeshift.experiments.tasks.grounding import CANDIDATES, grounding_accuracy, train_grounding
from shapeshift.experiments.training import Recipe


class Grounding(Matching):
    """Train a network to score candidate boxes by a phrase, and measure how often the best one is right."""

    datasets = ("scenes", "flickr30k")
    metrics = (Metric("accuracy", "accuracy at IoU 0.5, %", higher_is_better=True),)

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        recipe = Recipe(epochs=8, batch_size=64, learning_rate=0.005, weight_decay=0.01, optimizer="adamw")
        options = {"train": 4_000, "test": 500} if data == "scenes" else {}
        return Task(data, recipe, options, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        return {**super().describe(task), "candidates": CANDIDATES}

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        return (
            f"{texts_of(data, 'phrases')}, {data['candidates']} candidate boxes in each, {recipe['epochs']} epochs in "
            f"batches of {recipe['batch_size']} images"
        )

    def train(self, model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int) -> None:
        train_grounding(model, data, recipe, seed)

    def measure(self, model: nn.Module, data: CaptionedImages) -> dict[str, float]:
        return {"accuracy": grounding_accuracy(model, data)}
