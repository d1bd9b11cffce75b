"""Ignored labels: the samples and positions that do not count in a distillation loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from shapeshift.running.labels import IGNORED


def ignores_some(y: Any) -> bool:
    """Return whether labels hold one of -100; anything but integers holds none."""
    return isinstance(y, Tensor) and y.dim() > 0 and not y.is_floating_point() and bool((y == IGNORED).any())


def counted(y: Any, shape: Sequence[int]) -> tuple[Tensor | None, bool]:
    """Return which positions count by their labels: all whose label is not -100.

    The label of a sample stands for all of its positions. If labels of positions do not fit the feature, as after a
    pooling, a sample counts that has at least one label.

    Args:
        y: The labels: integers of shape (N,), (N, ...) or (N * positions,); anything else ignores nothing.
        shape: The shape of the feature without its channels: (N, positions), or (N, rows, columns).

    Returns:
        A bool tensor of the given shape, or None if everything counts; and whether it leaves out all that is ignored.
    """
    if not ignores_some(y):
        return None, True
    counts = y != IGNORED
    if counts.dim() == 1 and len(counts) != shape[0] and len(counts) == math.prod(shape):
        counts = counts.view(*shape)
    if [*counts.shape, *(1,) * (len(shape) - counts.dim())] == list(shape):  # a sequence is a map of one column
        return counts.view(*shape), True
    if len(counts) != shape[0]:
        return None, False
    samples = counts.flatten(1).any(1) if counts.dim() > 1 else counts
    return samples.view(-1, *(1,) * (len(shape) - 1)).expand(*shape), counts.dim() == 1
