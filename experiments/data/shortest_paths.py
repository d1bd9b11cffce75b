"""Grids with obstacles and two points: the task is to mark the shortest paths between the points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapeshift.errors import ConfigError

Mask = NDArray[np.bool_]

UNREACHED = -1  # the distance of a pixel that no path reaches

# The number of grids drawn at once. It is fixed, so that a small set is the first part of every larger one. One of them
# at least has to be usable.
_CANDIDATES = 1024


@dataclass(frozen=True)
class Grids:
    """Grids as images, and the pixels to find in them.

    Attributes:
        images: The obstacles and the two points as two channels of zeros and ones, in float32 and of shape
            (N, 2, side, side).
        targets: The pixels on shortest paths between the points, including the points, as booleans of shape
            (N, side, side).
    """

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Phase:
    """A part of a curriculum.

    Attributes:
        window: The side in pixels of a square around the first point. The second point is in this square.
        training: The training set.
        test: The test set, with the same window.
    """

    window: int
    training: Grids
    test: Grids


def curriculum(
    phases: int = 5,
    train: int = 5000,
    test: int = 1000,
    first_window: int = 5,
    side: int = 32,
    obstacles: float = 0.1,
    seed: int = 0,
) -> list[Phase]:
    """Draw the phases of the curriculum of Savarese and Maire 2019, section 4.3: the points move apart.

    Args:
        phases: The number of phases.
        train: The number of training grids of each phase.
        test: The number of test grids of each phase.
        first_window: The side in pixels of the first phase's window. Each further phase adds a ring of pixels.
        side: The height and the width of a grid in pixels.
        obstacles: The share of pixels that are blocked.
        seed: The seed of all random choices.

    Returns:
        The phases. Their training sets and test sets are drawn independently.

    Raises:
        ConfigError: if there is no phase, or :func:`shortest_paths` cannot draw one of them.
    """
    if phases < 1:
        raise ConfigError(f"a curriculum of {phases} phases: give at least one")
    windows = [first_window + 2 * phase for phase in range(phases)]
    return [
        Phase(
            window,
            shortest_paths(train, window, side, obstacles, (seed, window, 0)),
            shortest_paths(test, window, side, obstacles, (seed, window, 1)),
        )
        for window in windows
    ]


def shortest_paths(
    size: int, window: int, side: int = 32, obstacles: float = 0.1, seed: int | Sequence[int] = 0
) -> Grids:
    """Draw grids with obstacles, and two points in each that a path connects (Savarese and Maire 2019, section 4.3).

    A path steps from a free pixel to one of its four free neighbours. Each pixel is blocked independently, and the
    points are drawn from all pairs of different free pixels in a window. A grid without a path is drawn again.

    Args:
        size: The number of grids. The grids of a smaller set are the first ones of a larger set.
        window: The side in pixels, an odd number, of a square around the first point. The second point is in it.
        side: The height and the width of a grid in pixels.
        obstacles: The share of pixels that are blocked, at least 0 and below 1.
        seed: The seed of all random choices.

    Returns:
        The grids.

    Raises:
        ConfigError: if an argument is out of its range, or the obstacles leave hardly any paths.
    """
    if size < 1 or side < 2:
        raise ConfigError(f"{size} grids with a side of {side}: give at least one grid, of at least 2 pixels a side")
    if window < 3 or window % 2 == 0:
        raise ConfigError(f"points in a window of {window} pixels: give an odd side of at least 3")
    if not 0 <= obstacles < 1:
        raise ConfigError(f"a share of {obstacles} of obstacles: give at least 0, and less than 1")
    generator = np.random.default_rng(seed)
    drawn: list[tuple[Mask, Mask]] = []
    while sum(len(targets) for _, targets in drawn) < size:
        drawn.append(_draw(window, side, obstacles, generator))
        if not len(drawn[-1][1]):
            raise ConfigError(
                f"a share of {obstacles} of obstacles leaves none of {_CANDIDATES} pairs of points connected: give less"
            )
    images, targets = (torch.from_numpy(np.concatenate(parts)[:size]) for parts in zip(*drawn, strict=True))
    return Grids(images.float(), targets)


def _draw(window: int, side: int, obstacles: float, generator: np.random.Generator) -> tuple[Mask, Mask]:
    """Draw candidates, and return the images and the targets of those whose points are connected."""
    free = generator.random((_CANDIDATES, side, side)) >= obstacles
    first = generator.integers(side, size=(_CANDIDATES, 2))
    second = first + generator.integers(-(window // 2), window // 2 + 1, size=(_CANDIDATES, 2))
    usable = ((second >= 0) & (second < side)).all(1) & (first != second).any(1)
    free, first, second = free[usable], first[usable], second[usable]
    every = np.arange(len(free))
    points = np.zeros((2, *free.shape), np.bool_)
    for mask, (row, column) in zip(points, (first.T, second.T), strict=True):
        mask[every, row, column] = free[every, row, column]
    targets = on_shortest_paths(free, points[0], points[1])
    connected = targets.any((1, 2))
    images = np.stack([~free, points[0] | points[1]], 1)
    return images[connected], targets[connected]


def on_shortest_paths(free: Mask, first: Mask, second: Mask) -> Mask:
    """Mark the pixels on shortest paths: the sum of their distances to both points is the distance of the points.

    Args:
        free: The pixels that a path may use, of shape (N, height, width).
        first: The first point of each grid, as a mask of the same shape.
        second: The second point of each grid, as a mask of the same shape.

    Returns:
        The marked pixels, of the same shape. A grid has none if no path connects its points.
    """
    from_first, from_second = distances(free, first), distances(free, second)
    apart = np.where(second, from_first, UNREACHED).max((1, 2))
    reached = (from_first != UNREACHED) & (from_second != UNREACHED)
    marked: Mask = reached & (from_first + from_second == apart[:, None, None])
    return marked


def distances(free: Mask, sources: Mask) -> NDArray[np.int32]:
    """Return the number of steps from each grid's source to each pixel: a breadth-first search in all grids at once.

    Args:
        free: The pixels that a path may use, of shape (N, height, width).
        sources: One or more pixels of each grid, as a mask of the same shape.

    Returns:
        The number of steps, of the same shape, and :data:`UNREACHED` for pixels that no path reaches.
    """
    frontier = sources & free
    new = free & ~frontier
    steps = np.where(frontier, 0, UNREACHED).astype(np.int32)
    for step in itertools.count(1):
        frontier = _beside(frontier) & new
        if not frontier.any():
            break
        steps[frontier] = step
        new &= ~frontier
    return steps


def _beside(mask: Mask) -> Mask:
    """Return the pixels above, below, left and right of those in a mask."""
    beside = np.zeros_like(mask)
    beside[:, 1:] |= mask[:, :-1]
    beside[:, :-1] |= mask[:, 1:]
    beside[:, :, 1:] |= mask[:, :, :-1]
    beside[:, :, :-1] |= mask[:, :, 1:]
    return beside
