"""Networks that find the sentences of an image and the image of a sentence, and their recall."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.experiments.base import Metric
from benchmarks.experiments.two_branch import Matching, texts_of
from benchmarks.task import Task
from shapeshift.experiments.data import CaptionedImages
from shapeshift.experiments.tasks.retrieval import RANKS, retrieval_recalls, train_retrieval
from shapeshift.experiments.training import Recipe


class Retrieval(Matching):
    """Train a network to embed images and sentences, and measure recall both ways."""

    datasets = ("scenes", "emoji", "flickr30k")
    metrics = (
        Metric("mean_recall", "mean recall, %", higher_is_better=True),
        *(Metric(f"sentences_at_{rank}", f"image to sentence, R@{rank}", higher_is_better=True) for rank in RANKS),
        *(Metric(f"images_at_{rank}", f"sentence to image, R@{rank}", higher_is_better=True) for rank in RANKS),
    )

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        recipe = Recipe(epochs=8, batch_size=64, learning_rate=0.02, weight_decay=0.01, optimizer="adamw")
        options = {"train": 8_000, "test": 500} if data == "scenes" else {}
        return Task(data, recipe, options, device, data_dir)

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        return f"{texts_of(data, 'sentences')}, {recipe['epochs']} epochs in batches of {recipe['batch_size']} images"

    def train(self, model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int) -> None:
        train_retrieval(model, data, recipe, seed)

    def measure(self, model: nn.Module, data: CaptionedImages) -> dict[str, float]:
        return retrieval_recalls(model, data)
