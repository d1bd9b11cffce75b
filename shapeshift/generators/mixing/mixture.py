"""Weights made linearly from shared tensors: one at a time, with one gradient of each tensor for all of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.recomputed import Recipe, Recomputed, Versions
from shapeshift.running.modes import is_eager


class Reads(Protocol):
    """What a weight is made from: a form of mixture knows what it holds."""

    @property
    def numel(self) -> int: ...


ReadsT = TypeVar("ReadsT", bound=Reads)

#: A formula: makes weights from shared tensors and what each weight reads of them.
Plain = Callable[[Sequence[Tensor], Sequence[ReadsT]], list[Tensor]]


class Mixture(abc.ABC, Generic[ReadsT]):
    """The shared tensors of one pass, and the formula that makes weights from them.

    Args:
        plain: The formula, by differentiable tensor operations only: makes weights from tensors and what they read.
        tensors: The tensors; weights are linear in each of them.
        buffers: The memory that the weights are written to; None for fresh memory. A compiler decides for itself.
    """

    def __init__(self, plain: Plain[ReadsT], tensors: Sequence[Tensor], buffers: BufferPool | None = None) -> None:
        self.plain = plain
        self.tensors = tuple(tensors)
        self.is_fast = is_eager()  # compilers fuse plain operations better than we could
        if self.is_fast:
            self.buffers = buffers or BufferPool()
            self.versions = Versions(self.tensors)
            with torch.no_grad():
                self.prepare()
            #: An empty tensor from the node in which the gradients of all weights meet.
            self.handle: Tensor = _Meeting.apply(plain, *self.tensors)  # type: ignore[no-untyped-call]

    def weights(self, reads: Sequence[ReadsT], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Make weights of the given shapes."""
        if self.is_fast:
            return [self.recomputed("a weight", *each).read() for each in zip(reads, shapes, strict=True)]
        vectors = self.plain(self.tensors, reads)
        return [vector.view(tuple(shape)) for vector, shape in zip(vectors, shapes, strict=True)]

    def recomputed(self, label: str, reads: ReadsT, shape: Sequence[int]) -> Recomputed:
        """Make a weight of a shape whenever it is read."""
        return Recomputed(_Mixed(label, shape, self, reads))

    @abc.abstractmethod
    def prepare(self) -> None:
        """Compute what :meth:`write` needs of the tensors, once for all weights."""

    @abc.abstractmethod
    def write(self, vector: Tensor, reads: ReadsT) -> None:
        """Make a weight in memory that is there."""

    @abc.abstractmethod
    def sums(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> Sums[ReadsT]:
        """Return what adds up the gradients of the tensors, of which some are needed."""


class _Mixed(Recipe, Generic[ReadsT]):
    """One weight of a mixture."""

    def __init__(self, label: str, shape: Sequence[int], mixture: Mixture[ReadsT], reads: ReadsT) -> None:
        super().__init__(label, shape, (mixture.handle,))
        self._mixture = mixture
        self._reads = reads

    def compute(self) -> Tensor:
        mixture = self._mixture
        mixture.versions.check(self.label)
        with torch.no_grad():
            vector = mixture.buffers.empty(self._reads.numel, mixture.tensors[0])
            mixture.write(vector, self._reads)
            return vector.view(self.shape)

    def gradients(self, grad: Tensor, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """Add the gradient to those of the other weights; the node of the store hands all of them on at the end."""
        node: Any = self._mixture.handle.grad_fn
        # A backward pass that failed half-way may have left sums behind.
        task = torch._C._current_graph_task_id()
        if node.sums is None or node.task != task:
            node.sums, node.task = self._mixture.sums(node.saved_tensors, node.needs_input_grad[1:]), task
        if torch.is_grad_enabled():  # create_graph=True: the gradient has to be differentiable itself
            node.sums.later.append((self._reads, grad.reshape(-1)))
        else:
            node.sums.add(self._reads, grad.reshape(-1))
        return (None,)


class _Meeting(torch.autograd.Function):
    """Where the gradients of all weights of one pass meet: in one gradient of each shared tensor.

    Autograd's own backward of a slice writes a zero tensor as large as the store for every weight that reads it. Here
    each weight's gradient is added in place as soon as the layer has computed it, while it is still in the cache, and
    its memory is free for the next one. The engine runs this node once they have all arrived.
    """

    @staticmethod
    def forward(plain: Plain[Any], *tensors: Tensor) -> Tensor:
        return tensors[0].new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.plain = inputs[0]  # and not the mixture, which holds this node
        ctx.save_for_backward(*inputs[1:])
        ctx.set_materialize_grads(False)
        ctx.sums = None

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        sums, ctx.sums = ctx.sums, None
        if sums is None:
            return (None,) * len(ctx.needs_input_grad)
        grads: Sequence[Tensor | None] = sums.differentiable(ctx.plain) if sums.later else sums.gradients()
        return None, *grads


class Sums(abc.ABC, Generic[ReadsT]):
    """The gradients of the shared tensors, while those of the weights arrive.

    Args:
        tensors: The shared tensors.
        needed: Whether the gradient of each of them is needed.
    """

    def __init__(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.tensors = tensors
        self.needed = needed
        #: The gradients that have to be differentiable themselves.
        self.later: list[tuple[ReadsT, Tensor]] = []

    @abc.abstractmethod
    def add(self, reads: ReadsT, grad: Tensor) -> None:
        """Add the gradient of one weight, given as a vector."""

    @abc.abstractmethod
    def gradients(self) -> Sequence[Tensor | None]:
        """Return the gradient of each tensor, of its shape, and None where none is needed."""

    def differentiable(self, plain: Plain[ReadsT]) -> Sequence[Tensor | None]:
        """Return the gradients with a graph, by the formula of the mixture."""
        with torch.enable_grad():
            vectors = plain(self.tensors, [reads for reads, _ in self.later])
            inputs = [tensor for tensor in self.tensors if tensor.requires_grad]
            outputs = [grad for _, grad in self.later]
            grads = iter(torch.autograd.grad(vectors, inputs, outputs, create_graph=True, allow_unused=True))
        return tuple(next(grads) if tensor.requires_grad else None for tensor in self.tensors)
