"""What an error of a weight counts: the norm that a fit makes small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Metric = Callable[[Tensor], Tensor]


def plain(weight: Tensor) -> Tensor:
    """Count every number alike."""
    return weight


def both(metrics: Sequence[Metric]) -> Metric:
    """Sum the squared norms of several metrics: a tied weight is read by several layers."""
    return lambda weight: torch.cat([metric(weight).reshape(-1) for metric in metrics])


def relative(metric: Metric, target: Tensor) -> Metric:
    """Scale a metric so that ``target`` itself measures 1.

    The sum over the layers is then that of their relative errors. Errors in a row of layers add up in the outputs
    whatever the layers' sizes, so a small layer deserves more of a shared store for each of its numbers.
    """
    scale = 1 / torch.linalg.vector_norm(metric(target)).item()
    return lambda weight: metric(weight) * scale
