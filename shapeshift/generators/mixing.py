"""Mixing templates: the product that every generated weight comes from, in a fast and a plain form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    @property
    def windows(self) -> list[slice]:
        """The templates, as slices of the store."""
        slack, steps = self.span - self.size, max(1, self.count - 1)
        begins = [self.offset + k * slack // steps for k in range(self.count)]
        return [slice(begin, begin + self.size) for begin in begins]


def mix(store: Tensor, coefficients: Tensor, draws: Sequence[Draw]) -> Sequence[Tensor]:
    """Mix templates into vectors: ``sum_k coefficients[k] * template_k`` for each draw.

    Args:
        store: numbers of shape (N, 1).
        coefficients: numbers of shape (C,).
        draws: where the templates and the coefficients of each vector lie.

    Returns:
        One vector of shape (draw.size,) per draw.
    """
    # Compilers and transforms want plain operations, which the first of them fuse better than we could.
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or torch._C._are_functorch_transforms_active():
        return mix_plain(store, coefficients, draws)
    mixtures: tuple[Tensor, ...] = _Mix.apply(store, coefficients, tuple(draws))
    return mixtures


def mix_plain(store: Tensor, coefficients: Tensor, draws: Sequence[Draw]) -> list[Tensor]:
    """Mix with differentiable tensor operations only, one product for all vectors of the same templates."""
    flat = store.view(-1)
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


class _Mix(torch.autograd.Function):
    """The same with a backward pass that accumulates into one gradient of the store.

    Autograd's own backward of a slice writes a zero tensor as large as the store for every weight that reads it.
    """

    @staticmethod
    def forward(store: Tensor, coefficients: Tensor, draws: tuple[Draw, ...]) -> tuple[Tensor, ...]:
        flat, scales = store.view(-1), _scalars(coefficients)
        mixtures = []
        for draw in draws:
            first, *others = draw.windows
            mixture = flat[first] * scales[draw.start]
            for k, window in enumerate(others, start=draw.start + 1):
                _add_scaled(mixture, flat[window], scales[k])
            mixtures.append(mixture)
        return tuple(mixtures)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        store, coefficients, ctx.draws = inputs
        ctx.save_for_backward(store, coefficients)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        store, coefficients = ctx.saved_tensors
        arrived = [(draw, grad) for draw, grad in zip(ctx.draws, grads, strict=True) if grad is not None]
        if not arrived:
            return None, None, None
        if torch.is_grad_enabled():  # create_graph=True: the gradient has to be differentiable itself
            return *_differentiable_backward(store, coefficients, arrived), None
        flat, scales = store.view(-1), _scalars(coefficients)
        store_grad = torch.zeros_like(store)
        flat_grad = store_grad.view(-1)
        dots: dict[int, Tensor] = {}
        for draw, grad in arrived:
            for k, window in enumerate(draw.windows, start=draw.start):
                _add_scaled(flat_grad[window], grad, scales[k])
                if ctx.needs_input_grad[1]:
                    dots[k] = torch.dot(flat[window], grad)
        coefficient_grad = None
        if ctx.needs_input_grad[1]:
            coefficient_grad = torch.zeros_like(coefficients)
            positions = torch.tensor(list(dots), device=coefficients.device)
            coefficient_grad[positions] = torch.stack(list(dots.values()))
        return store_grad, coefficient_grad, None


def _scalars(coefficients: Tensor) -> Sequence[float | Tensor]:
    """Take coefficients apart: into floats where they are at hand, into tensors where reading them would wait."""
    return coefficients.tolist() if coefficients.is_cpu else coefficients.unbind()


def _add_scaled(target: Tensor, source: Tensor, scale: float | Tensor) -> None:
    if isinstance(scale, Tensor):
        target.addcmul_(source, scale)
    else:
        target.add_(source, alpha=scale)


def _differentiable_backward(
    store: Tensor, coefficients: Tensor, arrived: Sequence[tuple[Draw, Tensor]]
) -> tuple[Tensor | None, Tensor | None]:
    with torch.enable_grad():
        inputs = [tensor for tensor in (store, coefficients) if tensor.requires_grad]
        mixtures = mix_plain(store, coefficients, [draw for draw, _ in arrived])
        grads = torch.autograd.grad(mixtures, inputs, [grad for _, grad in arrived], create_graph=True)
    iterator = iter(grads)
    store_grad = next(iterator) if store.requires_grad else None
    return store_grad, next(iterator) if coefficients.requires_grad else None
