"""Trainings of a run that go on where a killed process left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from shapeshift.experiments import training

_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Let the trainings of this process keep their states in a folder, which is that of one run; None for nowhere."""
    global _folder
    _folder = folder


def train(model: nn.Module, data: Any, recipe: training.Recipe, seed: int, name: str, **options: Any) -> None:
    """Train a classifier in place, from the state that an earlier process kept of the same run, if any.

    Args:
        model: The classifier.
        data: The training set.
        recipe: The recipe.
        seed: The seed of the order of the examples.
        name: The name of the training, by which no other one of the run is called.
        **options: Options of :func:`shapeshift.experiments.training.train`.
    """
    checkpoint = _folder / f"{name}.pt" if _folder else None
    training.train(model, data, recipe, seed, checkpoint=checkpoint, **options)
