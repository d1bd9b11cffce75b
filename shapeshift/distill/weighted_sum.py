"""Weighted sums of distillation losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.distill.base import Distiller, TeacherStudent
from shapeshift.errors import ConfigError


class WeightedSum(Distiller):
    """A weighted sum of distillation losses; a teacher that several of them share runs once.

    Args:
        terms: The terms of the sum, as pairs of a factor and a distiller.

    Raises:
        ConfigError: If there is no term, a term is no such pair, or two terms run the same teacher under different
            autocast.

    Example:
        >>> import torch
        >>> from shapeshift.distill import KD, SRRL, WeightedSum
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> teacher, student = WideResNet(10, 0.5), WideResNet(10, 0.25)
        >>> x = torch.randn(4, 3, 32, 32)
        >>> with WeightedSum([(1.0, SRRL(teacher, student)), (0.5, KD(teacher, student))]) as distiller:
        ...     logits = student(x)
        ...     loss = distiller(x)
        >>> loss.shape, distiller.weights
        (torch.Size([]), [1.0, 0.5])
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
        # The hooks of all distillers of a teacher record in the same pass.
        for distiller in self._by_teacher.values():
            distiller.run_teacher(x)

    def loss(self, y: Any = None) -> Tensor:
        losses = [weight * distiller.loss(y) for weight, distiller in zip(self.weights, self._distillers, strict=True)]
        return torch.stack(losses).sum()

    def close(self) -> None:
        for distiller in self._distillers:
            distiller.close()
