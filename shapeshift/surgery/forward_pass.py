"""The weights of a running forward pass, and where layers read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from shapeshift.errors import GeneratedWeightError
from shapeshift.generators import WeightGenerator
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.running.modes import is_eager
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.weights import Weight


class ForwardPass(NamedTuple):
    """The weights that were generated for one forward pass, and the parameters that they were generated from.

    Attributes:
        weights: all weights of a group, in their order.
        parameters: the parameters that they were generated from.
        differentiable: whether they have a graph to the parameters.
        versions: how often the weights, and then the parameters, had been written to; None under a compiler or a
            function transform.
    """

    weights: Sequence[Tensor]
    parameters: Sequence[Tensor]
    differentiable: bool
    versions: Sequence[int] | None

    @classmethod
    def of(cls, weights: Sequence[Tensor], parameters: Sequence[Tensor]) -> Self:
        """Describe a pass that starts now."""
        versions = _versions([*weights, *parameters]) if is_eager() else None
        return cls(weights, parameters, torch.is_grad_enabled(), versions)

    @property
    def is_current(self) -> bool:
        """Whether a layer that reads now may use the weights.

        Weights of a pass under no_grad have no graph, and a step of an optimizer in the middle of a pass makes them
        old.
        """
        if torch.is_grad_enabled() and not self.differentiable:
            return False
        if self.versions is None or not is_eager():
            return True
        return _versions(self.parameters) == self.versions[len(self.weights) :]

    def overwritten(self) -> list[int]:
        """Return the indices of the weights that were written to."""
        if self.versions is None or not is_eager():
            return []
        counts = zip(_versions(self.weights), self.versions[: len(self.weights)], strict=True)
        return [index for index, (now, before) in enumerate(counts) if now != before]


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    # Inference tensors have no version.
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


class WeightSource:
    """Where layers read the weights of one group.

    During a forward pass of the model, between :meth:`begin` and :meth:`end`, all weights of the group are generated
    once, together. At any other time a layer reads a lazy weight, which is generated when it is used.

    Args:
        generator: The generator of the group.
        path: The dotted path of the generator from the root of the model.
    """

    def __init__(self, generator: WeightGenerator[Any], path: str) -> None:
        self.generator = generator
        self.path = path
        self._buffers = BufferPool()
        # One attribute, so that threads that run the model at once never see one's weights with the other's mode.
        self._current: ForwardPass | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The weights of the group."""
        return self.generator.weights

    @property
    def is_running(self) -> bool:
        """Whether a forward pass has begun and not ended."""
        return self._current is not None

    def begin(self) -> None:
        """Generate every weight for the forward pass that starts now."""
        weights = self.generator.generate(range(len(self.weights)), self._buffers)
        self._current = ForwardPass.of(weights, list(self.generator.parameters()))

    def read(self, index: int) -> Tensor:
        """Return one weight: that of the running forward pass, or a lazy one."""
        current = self._current
        if current is not None and current.is_current:
            return current.weights[index]
        if torch.compiler.is_compiling():
            return self.generator.generate([index])[0]
        return LazyWeight.of(self.generator, index)

    def check_unwritten(self) -> None:
        """Raise if the forward pass wrote to a weight; the write would be lost.

        Raises:
            GeneratedWeightError: if so.
        """
        overwritten = self._current.overwritten() if self._current is not None else []
        if overwritten:
            weight = self.weights[overwritten[0]]
            raise GeneratedWeightError(
                f"{weight.name} {weight.shape} is generated from shared parameters, and was written to during the "
                "forward pass, where the write is lost. Write before shapeshift.compress(model, ...), or keep the "
                "weight out with exclude="
            )

    def end(self) -> None:
        """Forget the weights of the forward pass that ends now."""
        self._current = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start outside of any forward pass.
        return {**self.__dict__, "_current": None}
