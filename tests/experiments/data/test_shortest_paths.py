"""Shortest paths: the grids, and their targets."""

from __future__ import annotations

from collections.abc import Callable

import networkx
import numpy as np
import pytest
import torch

from shapeshift.errors import ConfigError
from shapeshift.experiments.data.shortest_paths import (
    UNREACHED,
    curriculum,
    distances,
    on_shortest_paths,
    shortest_paths,
)
from tests.tolerances import assert_close

Pixel = tuple[int, int]


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
