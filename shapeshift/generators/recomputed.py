"""Tensors that a graph can do without: they are computed when they are read, and again when backward needs them."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from shapeshift.errors import GeneratedWeightError
from shapeshift.generators.mixing.buffer_pool import BufferPool


class Recipe(abc.ABC):
    """How a tensor is computed from its inputs, and how a gradient goes back to them.

    Args:
        label: The name of the weight that it belongs to, for errors.
        shape: The tensor's shape.
        inputs: What it is computed from.
    """

    def __init__(self, label: str, shape: Sequence[int], inputs: Sequence[Tensor]) -> None:
        self.label = label
        self.shape = tuple(shape)
        self.inputs = tuple(inputs)

    def stub(self) -> Tensor:
        """Return a tensor of the shape with one entry of memory."""
        return self.inputs[0].new_empty(()).expand(self.shape)

    @abc.abstractmethod
    def compute(self) -> Tensor:
        """Return the values, without a graph."""

    @abc.abstractmethod
    def gradients(self, grad: Tensor, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """Return the gradient of each input that needs one; differentiable ones where gradients are enabled."""


class Computed(Recipe):
    """A recipe of ordinary operations. The backward pass runs them again, with a graph.

    Args:
        label: As in :class:`Recipe`.
        shape: As in :class:`Recipe`.
        function: Computes the tensor from the sources.
        sources: The function's arguments.
        buffers: The memory that the tensor is written to. In memory of its own, between what layers keep, each weight
            would leave a hole once it is gone.
    """

    def __init__(
        self,
        label: str,
        shape: Sequence[int],
        function: Callable[..., Tensor],
        sources: Sequence[Tensor | Recomputed],
        buffers: BufferPool,
    ) -> None:
        super().__init__(label, shape, [found.stub if isinstance(found, Recomputed) else found for found in sources])
        self._function = function
        self._sources = sources
        self._buffers = buffers
        self._versions = Versions(self.inputs)

    def compute(self) -> Tensor:
        self._versions.check(self.label)
        with torch.no_grad(), own_precision(self.inputs[0]):
            result = self._buffers.empty(math.prod(self.shape), self.inputs[0]).view(self.shape)
            self.write(result, *self._values())
        return result

    def write(self, result: Tensor, *sources: Tensor) -> None:
        """Compute the tensor into memory that is there."""
        result.copy_(self._function(*sources))

    def gradients(self, grad: Tensor, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        self._versions.check(self.label)
        twice = torch.is_grad_enabled()
        with torch.enable_grad(), own_precision(grad):
            if twice:
                given = [found.read() if isinstance(found, Recomputed) else found for found in self._sources]
            else:
                given = [
                    found.detach().requires_grad_(needs) for found, needs in zip(self._values(), needed, strict=True)
                ]
            result = self._function(*given)
            wanted = [found for found, needs in zip(given, needed, strict=True) if needs]
            found = iter(torch.autograd.grad(result, wanted, grad, create_graph=twice, allow_unused=True))
        return [next(found) if needs else None for needs in needed]

    def _values(self) -> list[Tensor]:
        return [found.recipe.compute() if isinstance(found, Recomputed) else found for found in self._sources]


class Recomputed:
    """A tensor of the graph without memory for its values.

    Whoever reads it gets a tensor of new values, each time from the same node of the graph: gradients of all of them
    add up there, as if the tensor had been kept.

    Args:
        recipe: How it is computed.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        #: A tensor of the right shape that has a single entry; it stands for this tensor in the graph.
        self.stub: Tensor
        if torch.is_grad_enabled() and any(found.requires_grad for found in recipe.inputs):
            # The node saves its output, and torch asks the second hook for the values whenever that is read.
            with saved_tensors_hooks(_forget, lambda _: recipe.compute()):
                self.stub = _Node.apply(recipe, *recipe.inputs)  # type: ignore[no-untyped-call]
        else:
            self.stub = recipe.stub()

    def read(self) -> Tensor:
        """Return the values, with a graph where gradients are enabled."""
        node: Any = self.stub.grad_fn
        if node is None or not torch.is_grad_enabled():
            return self.recipe.compute()
        values: Tensor = node.saved_tensors[0]
        return values


class _Node(torch.autograd.Function):
    """The node of a recomputed tensor."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.recipe = recipe
        stub = recipe.stub()
        ctx.save_for_backward(stub)
        return stub

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        return None, *((None,) * len(needed) if grad is None else ctx.recipe.gradients(grad, needed))


class Versions:
    """How often tensors had been written to when this was made."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._counts = versions_of(self._tensors)

    @property
    def are_current(self) -> bool:
        """Whether none of them was written to since."""
        return versions_of(self._tensors) == self._counts

    def check(self, label: str) -> None:
        """Raise if one of them was written to since.

        Raises:
            GeneratedWeightError: if so. A weight that is generated again must not differ from that of the forward pass.
        """
        if not self.are_current:
            raise GeneratedWeightError(
                f"{label} was generated from shared parameters that have been modified by an inplace operation since, "
                "such as an optimizer's step: call backward() before it, or compute the loss again"
            )


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor has been written to; inference tensors do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def versions_of(tensors: Iterable[Tensor]) -> list[int]:
    """Return how often tensors have been written to."""
    return list(map(version_of, tensors))


def own_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Compute in the parameters' own precision: autocast is for the layers, and does not know the meta device."""
    if like.is_meta or not torch.is_autocast_enabled(like.device.type):
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def _forget(_: Tensor) -> None:
    return None
