"""The benchmark of phrase grounding."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.experiments.grounding import Grounding
from benchmarks.experiments.networks import compressed
from benchmarks.experiments.two_branch import SimNet
from benchmarks.row import Row
from shapeshift.experiments.training import Recipe

TINY = SimNet("gru", width=0.25, words=8, state=16, hidden=24, embedding=16)
RECIPE = Recipe(epochs=40, batch_size=8, learning_rate=0.02, weight_decay=0.0, optimizer="adamw")


def test_the_benchmark_measures_accuracy(tmp_path: Path) -> None:
    experiment = Grounding()
    recipe, options = replace(RECIPE, epochs=1), {"train": 16, "test": 8}
    task = replace(experiment.task("scenes", "cpu", tmp_path), recipe=recipe, options=options)
    sizes = json.loads(json.dumps(experiment.describe(task)))
    training, test = experiment.load(task)
    text = experiment.caption(sizes, asdict(task.recipe))
    assert f"with {len(training.phrases.tokens)} phrases and 8 test images with {len(test.phrases.tokens)}, 16 " in text
    found = experiment.run(Row(TINY, "compressed", "60%", compressed), task, seed=0)
    assert set(found) == {"parameters", "accuracy"}
    assert 0 <= found["accuracy"] <= 100
