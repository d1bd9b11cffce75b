"""Several distillation losses at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.distill.base import Distiller, TeacherStudent
from shapeshift.errors import ConfigError


class WeightedSum(Distiller):
    """A weighted sum of distillation losses, for which a teacher that several of them share runs once.

    Args:
        terms: pairs of a weight and a distiller.

    Raises:
        ConfigError: if there is none, one is no such pair, or two of them run one teacher under different autocast.
    """

    def __init__(self, terms: Sequence[tuple[float, TeacherStudent]]) -> None:
        super().__init__()
        if not terms:
            raise ConfigError("a weighted sum of no distillers: give pairs of a weight and a distiller")
        for term in terms:
            if not isinstance(term, Sequence) or len(term) != 2 or not isinstance(term[1], TeacherStudent):
                raise ConfigError(
                    f"{type(term).__name__}: give pairs of a weight and a distiller with a teacher of its own"
                )
        self.weights = [float(weight) for weight, _ in terms]
        self._distillers = tuple(distiller for _, distiller in terms)
        self.distillers = nn.ModuleList(self._distillers)
        self._by_teacher = {id(distiller.teacher): distiller for distiller in self._distillers}
        for distiller in self._distillers:
            first, second = self._by_teacher[id(distiller.teacher)].autocast, distiller.autocast
            if first != second:
                raise ConfigError(f"one teacher cannot run under autocast={first} and autocast={second} in one pass")

    def run_teacher(self, x: Any) -> None:
        # The hooks of all distillers of a teacher keep what they need of one pass.
        for distiller in self._by_teacher.values():
            distiller.run_teacher(x)

    def loss(self, y: Any = None) -> Tensor:
        losses = [weight * distiller.loss(y) for weight, distiller in zip(self.weights, self._distillers, strict=True)]
        return torch.stack(losses).sum()

    def close(self) -> None:
        for distiller in self._distillers:
            distiller.close()
