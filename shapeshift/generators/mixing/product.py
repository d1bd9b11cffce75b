"""Mixing templates: the product that every generated weight comes from, in a fast and a plain form."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shapeshift.generators.mixing.assembly import Assembly, Patch
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.combinations import Combination, Templates
from shapeshift.generators.mixing.mixture import Mixture, Sums


def mix(
    store: Sequence[Tensor], coefficients: Tensor, assemblies: Sequence[Assembly], buffers: BufferPool | None = None
) -> list[Tensor]:
    """Mix templates into weights: ``sum_k coefficients[k] * template_k`` in each patch.

    Args:
        store: The store's pieces in order, each of shape (n, 1).
        coefficients: The factor of each template of each combination, of shape (C,).
        assemblies: How each weight is assembled.
        buffers: The memory that the weights are written to; None for fresh memory. A compiler decides for itself.

    Returns:
        One vector of shape (assembly.numel,) per weight.
    """
    shapes = [(assembly.numel,) for assembly in assemblies]
    return TemplateMixture(store, coefficients, buffers).weights(assemblies, shapes)


def mix_plain(store: Sequence[Tensor], coefficients: Tensor, assemblies: Sequence[Assembly]) -> list[Tensor]:
    """Mix with differentiable tensor operations only."""
    vectors = iter(_combine(store, coefficients, [patch for assembly in assemblies for patch in assembly.patches]))
    return [assembly.join([next(vectors) for _ in assembly.patches]) for assembly in assemblies]


def _combine(store: Sequence[Tensor], coefficients: Tensor, patches: Sequence[Patch]) -> list[Tensor]:
    """Return the vector of each patch, by one product for all combinations of the same templates."""
    flat = torch.cat([piece.view(-1) for piece in store]) if len(store) > 1 else store[0].view(-1)
    products: dict[Templates, list[Combination]] = {}
    for combination in dict.fromkeys(patch.combination for patch in patches):
        products.setdefault(combination.templates, []).append(combination)
    mixed: dict[Combination, Tensor] = {}
    for combinations in products.values():
        first = combinations[0]
        if first.span == first.count * first.size:
            templates = flat[first.store_slice].view(first.count, first.size)
        else:
            templates = torch.stack([flat[template] for template in first.template_slices])
        rows = torch.stack([coefficients[combination.row] for combination in combinations])
        mixed |= zip(combinations, (rows @ templates).unbind(), strict=True)
    return [mixed[patch.combination][patch.first : patch.first + patch.size] for patch in patches]


class TemplateMixture(Mixture[Assembly]):
    """A store and coefficients that weights are mixed from.

    Args:
        store: As in :func:`mix`.
        coefficients: As in :func:`mix`.
        buffers: As in :func:`mix`.
    """

    def __init__(self, store: Sequence[Tensor], coefficients: Tensor, buffers: BufferPool | None = None) -> None:
        super().__init__(_plain, [coefficients, *store], buffers)

    def prepare(self) -> None:
        coefficients, *store = self.tensors
        self.flat, self.scales = [piece.view(-1) for piece in store], _scalars(coefficients)
        self.sizes = tuple(map(len, self.flat))

    def write(self, vector: Tensor, reads: Assembly) -> None:
        grid = reads.grid(vector)
        for patch in reads.patches:
            for template, entries, place in _runs(patch, patch.view_in(grid), self.flat, self.sizes):
                scale = self.scales[patch.combination.start + template]
                if template == 0:
                    torch.mul(entries, scale, out=place)
                else:
                    _add_scaled(place, entries, scale)

    def sums(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> _TemplateSums:
        return _TemplateSums(tensors, needed)


def _plain(tensors: Sequence[Tensor], assemblies: Sequence[Assembly]) -> list[Tensor]:
    return mix_plain(tensors[1:], tensors[0], assemblies)


class _Chunk(NamedTuple):
    """The entries of a patch that one piece of the store holds, for one template."""

    template: int
    piece: int
    source: slice
    target: slice


@functools.lru_cache(maxsize=2**16)
def _chunks(patch: Patch, sizes: tuple[int, ...]) -> tuple[_Chunk, ...]:
    """Cut the templates of a patch where the store's pieces, of the given sizes, meet."""
    chunks = []
    ends = list(itertools.accumulate(sizes))
    for template, entries in enumerate(patch.combination.template_slices):
        begin = entries.start + patch.first
        for piece, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            low, high = max(begin, end - size), min(begin + patch.size, end)
            if low < high:
                source = slice(low - (end - size), high - (end - size))
                chunks.append(_Chunk(template, piece, source, slice(low - begin, high - begin)))
    return tuple(chunks)


def _runs(
    patch: Patch, place: Tensor, flat: Sequence[Tensor], sizes: tuple[int, ...]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the entries of each template and the place in the weight that they go to: in one run, or row by row."""
    chunks = _chunks(patch, sizes)
    if patch.is_whole and place.is_contiguous():
        vector = place.view(-1)
        for template, piece, source, target in chunks:
            yield template, flat[piece][source], vector[target]
        return
    for template, cut in itertools.groupby(chunks, key=lambda chunk: chunk.template):
        found = [flat[piece][source] for _, piece, source, _ in cut]
        yield template, patch.crop(torch.cat(found) if len(found) > 1 else found[0]), place


class _TemplateSums(Sums[Assembly]):
    """The gradients of the coefficients and the store, while those of the weights arrive."""

    def __init__(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> None:
        super().__init__(tensors, needed)
        self.positions: list[int] = []
        self.products: list[Tensor] = []
        self.flat, self.scales = [piece.view(-1) for piece in tensors[1:]], _scalars(tensors[0])
        self.sizes = tuple(map(len, self.flat))
        self.store_grads: list[Tensor | None] = [None] * len(self.flat)

    def add(self, reads: Assembly, grad: Tensor) -> None:
        grid = reads.grid(grad)
        for patch in reads.patches:
            self._add_patch(patch, patch.gather(grid))

    def _add_patch(self, patch: Patch, grad: Tensor) -> None:
        for template, piece, source, target in _chunks(patch, self.sizes):
            position = patch.combination.start + template
            if self.needed[piece + 1]:
                self._add_to_piece(piece, source, grad[target], self.scales[position])
            if self.needed[0]:
                self.positions.append(position)
                self.products.append(torch.dot(self.flat[piece][source], grad[target]))

    def _add_to_piece(self, piece: int, source: slice, grad: Tensor, scale: float | Tensor) -> None:
        total = self.store_grads[piece]
        if total is None and len(grad) == self.sizes[piece]:  # the first to come fills it
            self.store_grads[piece] = grad * scale
            return
        if total is None:
            total = self.store_grads[piece] = torch.zeros_like(self.flat[piece])
        _add_scaled(total[source], grad, scale)

    def gradients(self) -> Sequence[Tensor | None]:
        coefficient_grad = None
        if self.products:
            where = torch.tensor(self.positions, device=self.products[0].device)
            coefficient_grad = torch.zeros_like(self.tensors[0]).index_add_(0, where, torch.stack(self.products))
        store_grads = [
            (torch.zeros_like(piece) if total is None else total.view(piece.shape)) if needs else None
            for piece, total, needs in zip(self.tensors[1:], self.store_grads, self.needed[1:], strict=True)
        ]
        return coefficient_grad, *store_grads


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
