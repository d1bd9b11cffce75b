"""Mixing templates: the product that every generated weight comes from, in a fast and a plain form."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


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


def mix(store: Sequence[Tensor], coefficients: Tensor, draws: Sequence[Draw]) -> Sequence[Tensor]:
    """Mix templates into vectors: ``sum_k coefficients[k] * template_k`` for each draw.

    Args:
        store: the store's pieces in order, numbers of shape (n, 1) each.
        coefficients: numbers of shape (C,).
        draws: where the templates and the coefficients of each vector lie.

    Returns:
        One vector of shape (draw.size,) per draw.
    """
    # Compilers and transforms want plain operations, which the first of them fuse better than we could.
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or torch._C._are_functorch_transforms_active():
        return mix_plain(store, coefficients, draws)
    mixtures: tuple[Tensor, ...] = _Mix.apply(tuple(draws), coefficients, *store)  # type: ignore[no-untyped-call]
    return mixtures


def mix_plain(store: Sequence[Tensor], coefficients: Tensor, draws: Sequence[Draw]) -> list[Tensor]:
    """Mix with differentiable tensor operations only, one product for all vectors of the same templates."""
    flat = torch.cat([piece.view(-1) for piece in store]) if len(store) > 1 else store[0].view(-1)
    products: dict[tuple[int, int, int, int], list[int]] = {}
    for index, draw in enumerate(draws):
        products.setdefault((draw.offset, draw.count, draw.size, draw.span), []).append(index)
    mixtures: list[Tensor] = [flat] * len(draws)
    for indices in products.values():
        first = draws[indices[0]]
        if first.span == first.count * first.size:
            templates = flat[first.offset : first.offset + first.span].view(first.count, first.size)
        else:
            templates = torch.stack([flat[window] for window in first.windows])
        starts = [draws[index].start for index in indices]
        rows = torch.stack([coefficients[start : start + first.count] for start in starts])
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


class _Mix(torch.autograd.Function):
    """The same with a backward pass that accumulates into one gradient of the store.

    Autograd's own backward of a slice writes a zero tensor as large as the store for every weight that reads it.
    """

    @staticmethod
    def forward(draws: tuple[Draw, ...], coefficients: Tensor, *store: Tensor) -> tuple[Tensor, ...]:
        flat, scales = [piece.view(-1) for piece in store], _scalars(coefficients)
        sizes = tuple(map(len, flat))
        mixtures = []
        for draw in draws:
            mixture = flat[0].new_empty(draw.size)
            for template, piece, source, target in _segments(draw, sizes):
                scale = scales[draw.start + template]
                if template == 0:
                    torch.mul(flat[piece][source], scale, out=mixture[target])
                else:
                    _add_scaled(mixture[target], flat[piece][source], scale)
            mixtures.append(mixture)
        return tuple(mixtures)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.draws, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        coefficients, *store = ctx.saved_tensors
        arrived = [(draw, grad) for draw, grad in zip(ctx.draws, grads, strict=True) if grad is not None]
        if not arrived:
            return (None,) * len(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # create_graph=True: the gradient has to be differentiable itself
            return None, *_differentiable_backward(coefficients, store, arrived)
        wants_coefficients = ctx.needs_input_grad[1]
        flat, scales = [piece.view(-1) for piece in store], _scalars(coefficients)
        sizes = tuple(map(len, flat))
        store_grads = [
            torch.zeros_like(piece) if needed else None
            for piece, needed in zip(store, ctx.needs_input_grad[2:], strict=True)
        ]
        flat_grads = [grad if grad is None else grad.view(-1) for grad in store_grads]
        positions, products = [], []
        for draw, grad in arrived:
            for template, piece, source, target in _segments(draw, sizes):
                part, into = grad[target], flat_grads[piece]
                if into is not None:
                    _add_scaled(into[source], part, scales[draw.start + template])
                if wants_coefficients:
                    positions.append(draw.start + template)
                    products.append(torch.dot(flat[piece][source], part))
        coefficient_grad = None
        if wants_coefficients:
            where = torch.tensor(positions, device=coefficients.device)
            coefficient_grad = torch.zeros_like(coefficients).index_add_(0, where, torch.stack(products))
        return None, coefficient_grad, *store_grads


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


def _differentiable_backward(
    coefficients: Tensor, store: Sequence[Tensor], arrived: Sequence[tuple[Draw, Tensor]]
) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        tensors = (coefficients, *store)
        mixtures = mix_plain(store, coefficients, [draw for draw, _ in arrived])
        inputs = [tensor for tensor in tensors if tensor.requires_grad]
        grads = iter(
            torch.autograd.grad(mixtures, inputs, [grad for _, grad in arrived], create_graph=True, allow_unused=True)
        )
    return tuple(next(grads) if tensor.requires_grad else None for tensor in tensors)
