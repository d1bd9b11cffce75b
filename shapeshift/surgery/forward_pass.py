"""The weights of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from shapeshift.running.modes import is_eager


class ForwardPass(NamedTuple):
    """What was generated for one forward pass, and from what.

    Attributes:
        weights: all of a group's, in their order.
        parameters: what they were generated from.
        differentiable: whether they have a graph to the parameters.
        versions: how often the weights, and then the parameters, had been written to; None where a compiler or a
            transform was looking on.
    """

    weights: Sequence[Tensor]
    parameters: Sequence[Tensor]
    differentiable: bool
    versions: Sequence[int] | None

    @classmethod
    def of(cls, weights: Sequence[Tensor], parameters: Sequence[Tensor]) -> Self:
        """Describe a pass that begins now."""
        versions = _versions([*weights, *parameters]) if is_eager() else None
        return cls(weights, parameters, torch.is_grad_enabled(), versions)

    def serves(self) -> bool:
        """Tell whether the weights are what a reader wants who comes now.

        Under no_grad weights have no graph, and an optimizer's step in the middle of a pass makes them old.
        """
        if torch.is_grad_enabled() and not self.differentiable:
            return False
        if self.versions is None or not is_eager():
            return True
        return _versions(self.parameters) == self.versions[len(self.weights) :]

    def written(self) -> list[int]:
        """Return the indices of the weights that were written to."""
        if self.versions is None or not is_eager():
            return []
        counts = zip(_versions(self.weights), self.versions[: len(self.weights)], strict=True)
        return [index for index, (now, before) in enumerate(counts) if now != before]


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    # Inference tensors do not count.
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
