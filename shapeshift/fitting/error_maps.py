"""Error maps: linear maps from the error of a weight to a tensor whose norm a fit minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ErrorMap = Callable[[Tensor], Tensor]


def plain(weight: Tensor) -> Tensor:
    """Return the error itself, so that every entry counts equally."""
    return weight


def both(error_maps: Sequence[ErrorMap]) -> ErrorMap:
    """Return the map whose squared norm is the sum of several: a tied weight is read by several layers."""
    return lambda weight: torch.cat([error_map(weight).reshape(-1) for error_map in error_maps])


def relative(error_map: ErrorMap, target: Tensor) -> ErrorMap:
    """Scale an error map so that ``target`` itself has norm 1.

    The sum over layers is then that of their relative errors. The errors of consecutive layers add up in the outputs,
    whatever the sizes of the layers. A small layer therefore gets more of a shared store for each of its entries.
    """
    scale = 1 / torch.linalg.vector_norm(error_map(target)).item()
    return lambda weight: error_map(weight) * scale
