"""The benchmark of retrieval."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from torch import nn

import shapeshift
from benchmarks.experiments.networks import Training, compressed
from benchmarks.experiments.retrieval import Retrieval
from benchmarks.experiments.two_branch import EmbNet, thinner
from benchmarks.row import Row
from benchmarks.tables import grounding as grounding_rows
from benchmarks.tables import retrieval as retrieval_rows
from shapeshift.budget import parse_budget
from shapeshift.experiments.training import Recipe
from tests.captioned import coloured

TINY = EmbNet("gru", width=0.25, words=8, state=16, hidden=24, embedding=16)
RECIPE = Recipe(epochs=15, batch_size=8, learning_rate=0.01, weight_decay=0.0, optimizer="adamw")


@pytest.mark.parametrize("row", [*retrieval_rows.ROWS, *grounding_rows.ROWS], ids=lambda row: row.key.replace(" ", ""))
def test_every_row_can_be_built(row: Row) -> None:
    data = coloured(count=4)
    training = Training(data, RECIPE, seed=0, device="cpu")
    json.dumps(row.settings)
    size = shapeshift.count_parameters(row.build(row.network, row.budget, training, **row.options))
    own = shapeshift.count_parameters(row.network.build(data))
    allowed = parse_budget(row.budget, own) if row.budget else own
    assert 0.95 * allowed < size <= allowed


@pytest.mark.parametrize("build", [thinner, compressed])
def test_the_benchmark_measures_recall(build: Callable[..., nn.Module], tmp_path: Path) -> None:
    experiment = Retrieval()
    task = replace(
        experiment.task("scenes", "cpu", tmp_path),
        recipe=replace(RECIPE, epochs=1),
        options={"train": 16, "test": 8},
    )
    sizes = json.loads(json.dumps(experiment.describe(task)))
    text = experiment.caption(sizes, asdict(task.recipe))
    assert text.startswith("16 training images of shape 3 x 48 x 48 with 80 sentences and 8 test images with 40")
    assert text.endswith("1 epochs in batches of 8 images")
    found = experiment.run(Row(TINY, "small", "60%", build), task, seed=0)
    assert set(found) == {"parameters", *(metric.name for metric in experiment.metrics)}
    own = shapeshift.count_parameters(TINY.build(experiment.load(task)[0]))
    assert 0.5 * own < found["parameters"] <= 0.6 * own
    assert 0 <= found["mean_recall"] <= 100
