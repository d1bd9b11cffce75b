"""What an error of a weight counts: the norm that a fit makes small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ErrorMap = Callable[[Tensor], Tensor]


def plain(weight: Tensor) -> Tensor:
    """Count every number alike."""
    return weight


def both(error_maps: Sequence[ErrorMap]) -> ErrorMap:
    """Sum the squared norms of several error_maps: a tied weight is read by several layers."""
    return lambda weight: torch.cat([error_map(weight).reshape(-1) for error_map in error_maps])


def relative(error_map: ErrorMap, target: Tensor) -> ErrorMap:
    """Scale a error_map so that ``target`` itself measures 1.

    The sum over the layers is then that of their relative errors. Errors in a row of layers add up in the outputs
    whatever the layers' sizes, so a small layer deserves more of a shared store for each of its numbers.
    """
    scale = 1 / torch.linalg.vector_norm(error_map(target)).item()
    return lambda weight: error_map(weight) * scale
