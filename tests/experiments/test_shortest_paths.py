"""Shortest paths: the grids, the network that marks the paths, and the benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shapeshift
from benchmarks.experiments.shortest_paths import WINDOWS, PathRecipe, ShortestPaths, load, score, train_phases
from benchmarks.tables.shortest_paths import ROWS, TABLE
from benchmarks.task import Task
from shapeshift.errors import ConfigError
from shapeshift.experiments.data.shortest_paths import (
    UNREACHED,
    Grids,
    curriculum,
    distances,
    on_shortest_paths,
    shortest_paths,
)
from shapeshift.networks.pixelwise import PixelwiseNetwork
from shapeshift.recurrence import similarity
from tests.tolerances import assert_close

Pixel = tuple[int, int]

EXPERIMENT = ShortestPaths()
TINY = Task("grids", PathRecipe(2, 4, epochs=2), {"train": 64, "test": 16, "side": 16})


def graph_of(free: np.ndarray) -> networkx.Graph:
    """Return the graph of a grid: its free pixels, those side by side joined."""
    graph = networkx.grid_2d_graph(*free.shape)
    graph.remove_nodes_from([tuple(pixel) for pixel in np.argwhere(~free).tolist()])
    return graph


def points_of(mask: np.ndarray) -> list[Pixel]:
    return [tuple(pixel) for pixel in np.argwhere(mask).tolist()]


def mask_of(pixels: set[Pixel], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def all_on_paths(graph: networkx.Graph, first: Pixel, second: Pixel) -> set[Pixel]:
    if graph.has_node(first) and graph.has_node(second) and networkx.has_path(graph, first, second):
        return {pixel for path in networkx.all_shortest_paths(graph, first, second) for pixel in path}
    return set()


@pytest.mark.parametrize(("side", "window", "obstacles"), [(16, 13, 0.1), (9, 9, 0.4), (8, 5, 0.0), (12, 23, 0.3)])
def test_targets_are_all_shortest_paths_between_the_two_points(side: int, window: int, obstacles: float) -> None:
    grids = shortest_paths(40, window, side, obstacles, seed=3)
    for image, target in zip(grids.images.numpy().astype(np.bool_), grids.targets.numpy(), strict=True):
        first, second = points_of(image[1])
        expected = all_on_paths(graph_of(~image[0]), first, second)
        assert expected
        assert np.array_equal(target, mask_of(expected, target.shape))
        assert max(abs(first[0] - second[0]), abs(first[1] - second[1])) <= window // 2


@pytest.mark.parametrize("share", [0.0, 0.2, 0.45])
def test_distances_are_those_of_a_search_in_a_graph(share: float) -> None:
    generator = np.random.default_rng(5)
    free = generator.random((20, 7, 11)) >= share  # not square: rows and columns are not mixed up
    sources, other = np.zeros((2, *free.shape), np.bool_)
    for index in range(len(free)):
        places = generator.choice(77, 2, replace=False)
        sources[index].flat[places[0]] = other[index].flat[places[1]] = True
    steps, marked = distances(free, sources), on_shortest_paths(free, sources, other)
    unreached = 0
    for index, blocked in enumerate(~free):
        graph, (source,), (goal,) = graph_of(~blocked), points_of(sources[index]), points_of(other[index])
        found = networkx.single_source_shortest_path_length(graph, source) if graph.has_node(source) else {}
        expected = np.full(blocked.shape, UNREACHED)
        for pixel, length in found.items():
            expected[pixel] = length
        assert np.array_equal(steps[index], expected)
        assert np.array_equal(marked[index], mask_of(all_on_paths(graph, source, goal), blocked.shape))
        unreached += not marked[index].any()
    assert (unreached > 0) == (share > 0)  # the cases of points without a path are among those that were compared


def test_grids_are_images_of_obstacles_and_two_free_points() -> None:
    grids = shortest_paths(500, 7, side=16, obstacles=0.2)
    assert grids.images.shape == (500, 2, 16, 16)
    assert grids.images.dtype == torch.float32
    assert grids.targets.shape == (500, 16, 16)
    assert grids.targets.dtype == torch.bool
    obstacles, points = grids.images.bool().unbind(1)
    assert set(grids.images.unique().tolist()) == {0, 1}
    assert (points.sum((1, 2)) == 2).all()
    assert not (obstacles & (points | grids.targets)).any()
    assert grids.targets[points].all()
    assert 0.17 < obstacles.float().mean() < 0.21  # paths and points keep some of the blocked grids away


def test_every_pair_of_points_in_a_window_is_drawn_equally_often() -> None:
    points = shortest_paths(20_000, 3, side=4, obstacles=0.0).images[:, 1].bool().flatten(1)
    pairs, counts = torch.nonzero(points)[:, 1].view(-1, 2).unique(dim=0, return_counts=True)
    assert len(pairs) == 42  # 12 in rows, 12 in columns, 18 across
    expected = 20_000 / 42
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_a_small_set_is_the_beginning_of_every_larger_one_of_its_seed() -> None:
    few, many, other = (shortest_paths(size, 5, 8, seed=seed) for size, seed in ((30, 1), (2000, 1), (30, 2)))
    assert_close((few.images, few.targets), (many.images[:30], many.targets[:30]), "identical")
    assert not (few.images == other.images).all((1, 2, 3)).any()


def test_the_points_of_a_curriculum_move_apart() -> None:
    phases = curriculum(phases=3, train=600, test=400, first_window=3, side=12)
    assert [phase.window for phase in phases] == [3, 5, 7]
    for phase in phases:
        for grids in (phase.training, phase.test):
            coordinates = torch.nonzero(grids.images[:, 1])[:, 1:].view(-1, 2, 2)
            apart = (coordinates[:, 0] - coordinates[:, 1]).abs().amax(1)
            assert apart.max() == phase.window // 2
            assert apart.min() == 1
        assert not (phase.training.images[:400] == phase.test.images).all((1, 2, 3)).any()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: shortest_paths(0, 5), "0 grids"),
        (lambda: shortest_paths(1, 5, side=1), "at least 2 pixels"),
        (lambda: shortest_paths(1, 6), "window of 6 pixels: give an odd side"),
        (lambda: shortest_paths(1, 1), "window of 1 pixels"),
        (lambda: shortest_paths(1, 5, obstacles=1.0), "less than 1"),
        (lambda: shortest_paths(1, 5, obstacles=-0.1), "at least 0"),
        (lambda: shortest_paths(1, 5, obstacles=0.999), "leaves none of 1024 pairs"),
        (lambda: curriculum(phases=0), "0 phases"),
    ],
)
def test_grids_that_cannot_be_drawn_are_refused(draw: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        draw()


def test_the_network_keeps_the_sides_and_sees_as_far_as_it_is_deep() -> None:
    model = PixelwiseNetwork(depth=3, channels=8, out_channels=2).eval()
    images = torch.randn(2, 2, 9, 11, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 2, 9, 11)
    logits[0, 0, 4, 5].backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(0) > 0
    assert torch.nonzero(seen).amin(0).tolist() == [1, 2]
    assert torch.nonzero(seen).amax(0).tolist() == [7, 8]
    assert not images.grad[1].any()


def test_the_papers_network_has_twenty_equal_layers() -> None:
    model = PixelwiseNetwork()
    layers, rest = 20 * (32 * 32 * 9 + 2 * 32), (2 * 32 + 32) + (32 + 1)
    assert shapeshift.count_parameters(model) == layers + rest
    assert len({parameter.shape for name, parameter in model.named_parameters() if name.endswith("conv.weight")}) == 1
    # The logits start at what one pixel's decision is about, however deep the network is.
    assert 0.01 < model(shortest_paths(8, 5).images).abs().mean() < 10
    with pytest.raises(ConfigError, match="at least one 3x3 convolution, not 0"):
        PixelwiseNetwork(depth=0)


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
