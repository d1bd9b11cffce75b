"""Mixing templates: the product that every generated weight comes from, in a fast and a plain form."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shapeshift.eager import is_eager
from shapeshift.generators.memory import WeightMemory


@dataclass(frozen=True)
class Draw:
    """Which numbers of a store one weight is mixed from.

    Attributes:
        offset: where the first template begins.
        count: how many templates are mixed.
        size: how many numbers a template has.
        span: how many numbers lie between the begin of the first and the end of the last; where that is less than
            ``count * size``, the templates overlap evenly.
        start: where the weight's coefficients begin among those of its group.
    """

    offset: int
    count: int
    size: int
    span: int
    start: int

    def __post_init__(self) -> None:
        if min(self.offset, self.start) < 0 or not 1 <= self.size <= self.span <= self.count * self.size:
            raise ValueError(f"templates that cannot be: {self}")
        if self.count > self.span:
            raise ValueError(f"more templates than they have numbers: {self}")

    @property
    def windows(self) -> list[slice]:
        """The templates, as slices of the store."""
        slack, steps = self.span - self.size, max(1, self.count - 1)
        begins = [self.offset + k * slack // steps for k in range(self.count)]
        return [slice(begin, begin + self.size) for begin in begins]

    @property
    def templates(self) -> tuple[int, int, int, int]:
        """What is equal for draws of the same templates, whatever their coefficients."""
        return self.offset, self.count, self.size, self.span

    @property
    def extent(self) -> slice:
        """All of the templates together, as one slice of the store."""
        return slice(self.offset, self.offset + self.span)

    @property
    def row(self) -> slice:
        """The weight's coefficients, as a slice of its group's."""
        return slice(self.start, self.start + self.count)


def mix(
    store: Sequence[Tensor], coefficients: Tensor, draws: Sequence[Draw], memory: WeightMemory | None = None
) -> Sequence[Tensor]:
    """Mix templates into vectors: ``sum_k coefficients[k] * template_k`` for each draw.

    Args:
        store: the store's pieces in order, numbers of shape (n, 1) each.
        coefficients: numbers of shape (C,).
        draws: where the templates and the coefficients of each vector lie.
        memory: where to write them; fresh memory if None, or where a compiler decides.

    Returns:
        One vector of shape (draw.size,) per draw.
    """
    if not is_eager():  # compilers fuse plain operations better than we could
        return mix_plain(store, coefficients, draws)
    with torch.no_grad():
        flat, scales = [piece.view(-1) for piece in store], _scalars(coefficients)
        sizes = tuple(map(len, flat))
        vectors = (memory or WeightMemory()).empty([draw.size for draw in draws], flat[0])
    node: Tensor = _Store.apply(coefficients, *store)  # type: ignore[no-untyped-call]
    # In a list, since a function that returns a tensor it was given makes a view of it.
    return [
        _Mix.apply(node, draw, flat, sizes, scales, [vector])  # type: ignore[no-untyped-call]
        for draw, vector in zip(draws, vectors, strict=True)
    ]


def mix_plain(store: Sequence[Tensor], coefficients: Tensor, draws: Sequence[Draw]) -> list[Tensor]:
    """Mix with differentiable tensor operations only, one product for all vectors of the same templates."""
    flat = torch.cat([piece.view(-1) for piece in store]) if len(store) > 1 else store[0].view(-1)
    products: dict[tuple[int, int, int, int], list[int]] = {}
    for index, draw in enumerate(draws):
        products.setdefault(draw.templates, []).append(index)
    mixtures: list[Tensor] = [flat] * len(draws)
    for indices in products.values():
        first = draws[indices[0]]
        if first.span == first.count * first.size:
            templates = flat[first.extent].view(first.count, first.size)
        else:
            templates = torch.stack([flat[window] for window in first.windows])
        rows = torch.stack([coefficients[draws[index].row] for index in indices])
        for index, mixture in zip(indices, (rows @ templates).unbind(), strict=True):
            mixtures[index] = mixture
    return mixtures


class _Segment(NamedTuple):
    """The part of a template that lies in one piece of the store."""

    template: int
    piece: int
    source: slice
    target: slice


@functools.lru_cache(maxsize=2**16)
def _segments(draw: Draw, sizes: tuple[int, ...]) -> tuple[_Segment, ...]:
    """Cut the templates of a draw where the store's pieces, of the given sizes, meet."""
    segments = []
    ends = list(itertools.accumulate(sizes))
    for template, window in enumerate(draw.windows):
        for piece, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            low, high = max(window.start, end - size), min(window.stop, end)
            if low < high:
                source = slice(low - (end - size), high - (end - size))
                target = slice(low - window.start, high - window.start)
                segments.append(_Segment(template, piece, source, target))
    return tuple(segments)


class _Store(torch.autograd.Function):
    """Where the gradients of all vectors of one pass meet: in one gradient of the store and one of the coefficients.

    Autograd's own backward of a slice writes a zero tensor as large as the store for every weight that reads it. Here
    each weight's gradient is added in place as soon as the layer has computed it, while it is still in the cache, and
    its memory is free for the next one. The engine runs this node once they have all arrived.
    """

    @staticmethod
    def forward(coefficients: Tensor, *store: Tensor) -> Tensor:
        return coefficients.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.sums = None

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        sums, ctx.sums = ctx.sums, None
        if sums is None:
            return (None,) * len(ctx.needs_input_grad)
        grads: tuple[Tensor | None, ...] = sums.gradients()
        return grads


class _Mix(torch.autograd.Function):
    """One vector of a pass."""

    @staticmethod
    def forward(
        store: Tensor,
        draw: Draw,
        flat: Sequence[Tensor],
        sizes: tuple[int, ...],
        scales: Sequence[float | Tensor],
        out: list[Tensor],
    ) -> Tensor:
        (mixture,) = out
        for template, piece, source, target in _segments(draw, sizes):
            scale = scales[draw.start + template]
            if template == 0:
                torch.mul(flat[piece][source], scale, out=mixture[target])
            else:
                _add_scaled(mixture[target], flat[piece][source], scale)
        return mixture

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.store, ctx.draw = inputs[0].grad_fn, inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, ...]:
        if grad is not None:
            # A backward pass that failed half-way may have left sums behind.
            task = torch._C._current_graph_task_id()
            if ctx.store.sums is None or ctx.store.sums.task != task:
                ctx.store.sums = _Sums(task, ctx.store.saved_tensors, ctx.store.needs_input_grad)
            ctx.store.sums.add(ctx.draw, grad)
        return (None,) * 6


class _Sums:
    """The gradients of the store and the coefficients, while those of the vectors arrive."""

    def __init__(self, task: int, tensors: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.task = task
        self.tensors = tensors
        self.needed = needed
        self.later: list[tuple[Draw, Tensor]] = []
        self.positions: list[int] = []
        self.products: list[Tensor] = []
        self.flat, self.scales = [piece.view(-1) for piece in tensors[1:]], _scalars(tensors[0])
        self.sizes = tuple(map(len, self.flat))
        self.store_grads: list[Tensor | None] = [None] * len(self.flat)

    def add(self, draw: Draw, grad: Tensor) -> None:
        if torch.is_grad_enabled():  # create_graph=True: the gradient has to be differentiable itself
            self.later.append((draw, grad))
            return
        for template, piece, source, target in _segments(draw, self.sizes):
            part = grad[target]
            if self.needed[piece + 1]:
                self._add_to_piece(piece, source, part, self.scales[draw.start + template])
            if self.needed[0]:
                self.positions.append(draw.start + template)
                self.products.append(torch.dot(self.flat[piece][source], part))

    def _add_to_piece(self, piece: int, source: slice, part: Tensor, scale: float | Tensor) -> None:
        total = self.store_grads[piece]
        if total is None and len(part) == self.sizes[piece]:  # the first to come fills it
            self.store_grads[piece] = part * scale
            return
        if total is None:
            total = self.store_grads[piece] = torch.zeros_like(self.flat[piece])
        _add_scaled(total[source], part, scale)

    def gradients(self) -> tuple[Tensor | None, ...]:
        if self.later:
            return self._differentiable()
        coefficient_grad = None
        if self.products:
            where = torch.tensor(self.positions, device=self.products[0].device)
            coefficient_grad = torch.zeros_like(self.tensors[0]).index_add_(0, where, torch.stack(self.products))
        store_grads = [
            (torch.zeros_like(piece) if total is None else total.view(piece.shape)) if needs else None
            for piece, total, needs in zip(self.tensors[1:], self.store_grads, self.needed[1:], strict=True)
        ]
        return coefficient_grad, *store_grads

    def _differentiable(self) -> tuple[Tensor | None, ...]:
        coefficients, *store = self.tensors
        with torch.enable_grad():
            mixtures = mix_plain(store, coefficients, [draw for draw, _ in self.later])
            inputs = [tensor for tensor in self.tensors if tensor.requires_grad]
            outputs = [grad for _, grad in self.later]
            grads = iter(torch.autograd.grad(mixtures, inputs, outputs, create_graph=True, allow_unused=True))
        return tuple(next(grads) if tensor.requires_grad else None for tensor in self.tensors)


def _scalars(coefficients: Tensor) -> Sequence[float | Tensor]:
    """Take coefficients apart: into floats where they are at hand, into tensors where reading them would wait."""
    if coefficients.is_cpu:
        values: list[float] = coefficients.tolist()
        return values
    return coefficients.unbind()


def _add_scaled(target: Tensor, source: Tensor, scale: float | Tensor) -> None:
    if isinstance(scale, Tensor):
        target.addcmul_(source, scale)
    else:
        target.add_(source, alpha=scale)
