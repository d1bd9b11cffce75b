"""The benchmark of shortest paths."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.experiments.shortest_paths import WINDOWS, PathRecipe, ShortestPaths, load, score, train_phases
from benchmarks.tables.shortest_paths import ROWS, TABLE
from benchmarks.task import Task
from shapeshift.experiments.data.shortest_paths import (
    Grids,
    curriculum,
    shortest_paths,
)
from shapeshift.networks.pixelwise import PixelwiseNetwork
from shapeshift.recurrence import similarity

EXPERIMENT = ShortestPaths()


TINY = Task("grids", PathRecipe(2, 4, epochs=2), {"train": 64, "test": 16, "side": 16})


class Oracle(nn.Module):
    """Marks given pixels."""

    def __init__(self, marked: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(marked.float() - 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.unsqueeze(1)


def test_the_score_counts_pixels() -> None:
    grids = shortest_paths(50, 5, 8)
    targets = grids.targets
    assert score(Oracle(targets), grids) == (100, 100)
    nothing = score(Oracle(torch.zeros_like(targets)), grids)
    assert nothing[0] == 0
    assert nothing[1] == pytest.approx(100 * (1 - targets.float().mean().item()))
    # One wrong pixel for each right one, and none missed: a precision of a half, a recall of 1.
    as_many = targets.flatten(1).sort(1).values.view_as(targets)
    both = targets | (as_many & ~targets)
    extra, true = (both & ~targets).sum().item(), targets.sum().item()
    assert extra > 0
    assert score(Oracle(both), grids)[0] == pytest.approx(100 * 2 * true / (2 * true + extra))


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    """Run each row once, at a size that takes seconds."""
    found = {}
    for row in ROWS:
        torch.manual_seed(0)
        found[row.method] = EXPERIMENT.run(row, TINY, seed=0)
    return found


def test_a_run_measures_every_phase(runs: dict[str, dict[str, Any]]) -> None:
    for run in runs.values():
        assert json.loads(json.dumps(run)) == run
        assert [len(phase) for phase in run["f1_by_epoch"]] == [len(p) for p in run["accuracy_by_epoch"]] == [2] * 5
        assert {metric.name for metric in EXPERIMENT.metrics} < set(run)
        means = [sum(phase) / 2 for phase in run["f1_by_epoch"]]
        assert [run[f"f1_{window}"] for window in WINDOWS] == means
        assert run["f1"] == pytest.approx(sum(means) / 5)
        assert (run["last_f1"], 100 - run["last_error"]) == (run["f1_by_epoch"][4][1], run["accuracy_by_epoch"][4][1])
    cnn, shared, regularised = (runs[method] for method in ("CNN", "SCNN", "SCNN-R"))
    # As many templates as layers, and a coefficient for each pair of the two.
    assert shared["parameters"] == regularised["parameters"] == cnn["parameters"] + 2 * 2
    assert shared["f1_by_epoch"] != regularised["f1_by_epoch"] != cnn["f1_by_epoch"]


def test_a_run_can_be_repeated(runs: dict[str, dict[str, Any]]) -> None:
    torch.manual_seed(0)
    assert EXPERIMENT.run(ROWS[2], TINY, seed=0) == runs["SCNN-R"]


def test_the_regulariser_makes_layers_similar() -> None:
    found = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = ROWS[1].build(ROWS[1].network, "", PathRecipe(4, 4))
        train_phases(model, load(TINY)[:1], PathRecipe(4, 4, epochs=6, batch_size=8, regulariser=weight), seed=0)
        (matrix,) = similarity(model).values()
        found[weight] = matrix.mean().item()
    assert found[1.0] > found[0.0] + 0.2


def test_a_network_learns_to_mark_paths() -> None:
    phases = curriculum(phases=1, train=512, test=100, first_window=3, side=8)
    torch.manual_seed(0)
    recipe = PathRecipe(4, 8, epochs=6, batch_size=32)
    (f1,) = train_phases(PixelwiseNetwork(4, 8), phases, recipe, seed=0)["f1_by_epoch"]
    marked = phases[0].test.images[:, 1].bool()  # whoever marks the points only
    trivial = 2 * marked.sum() / (marked.sum() + phases[0].test.targets.sum())
    assert f1[-1] > 100 * trivial.item() + 3


def test_the_size_of_the_task_follows_the_device() -> None:
    small, full = (EXPERIMENT.task("grids", device) for device in ("cpu", "cuda"))
    assert (full.recipe.depth, full.recipe.channels, full.recipe.epochs, full.recipe.learning_rate) == (
        20,
        32,
        50,
        0.01,
    )
    assert dict(full.options) == {"train": 5000, "test": 1000, "side": 32}
    sizes = json.loads(json.dumps(EXPERIMENT.describe(replace(small, options=TINY.options))))
    assert sizes == {**TINY.options, "windows": list(WINDOWS)}
    caption = EXPERIMENT.caption(sizes, asdict(small.recipe))
    assert "64 training and 16 test grids of 16 x 16 pixels in each of 5 phases" in caption
    assert "window of 5, 7, 9, 11 and 13 pixels, 20 layers of 16 channels, 8 epochs per phase" in caption


def test_rows_differ_in_the_weights_alone() -> None:
    assert [row.recipe for row in ROWS[:2]] == [{}, {}]
    assert set(ROWS[2].recipe) == {"regulariser"}
    assert TABLE.experiment.metrics[0].higher_is_better


def test_the_curves_are_drawn(runs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "curves.png"
    EXPERIMENT.draw({method: [run, run] for method, run in runs.items()}, EXPERIMENT.describe(TINY), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()
    EXPERIMENT.draw({"CNN": [runs["CNN"]]}, EXPERIMENT.describe(TINY), path)
    assert path.read_bytes() != before


def test_phases_of_a_task_are_drawn_once() -> None:
    assert load(TINY) is load(TINY)
    assert all(isinstance(phase.training, Grids) and len(phase.training.targets) == 64 for phase in load(TINY))
