"""Mixing templates: the product that every generated weight comes from, in a fast and a plain form."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shapeshift.generators.mixing.assembly import Assembly, Patch
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.combinations import Combination, Templates
from shapeshift.generators.recomputed import Recipe, Recomputed, Versions
from shapeshift.running.modes import is_eager


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
    return Mixture(store, coefficients, buffers).weights(assemblies, [(assembly.numel,) for assembly in assemblies])


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


class Mixture:
    """A store and coefficients that weights are mixed from, one at a time, with one gradient of the store for all.

    Args:
        store: As in :func:`mix`.
        coefficients: As in :func:`mix`.
        buffers: As in :func:`mix`.
    """

    def __init__(self, store: Sequence[Tensor], coefficients: Tensor, buffers: BufferPool | None = None) -> None:
        self.store = store
        self.coefficients = coefficients
        self.is_fast = is_eager()  # compilers fuse plain operations better than we could
        if self.is_fast:
            self.buffers = buffers or BufferPool()
            self.versions = Versions([coefficients, *store])
            with torch.no_grad():
                self.flat, self.scales = [piece.view(-1) for piece in store], _scalars(coefficients)
            self.sizes = tuple(map(len, self.flat))
            #: An empty tensor from the node in which the gradients of all weights meet.
            self.handle: Tensor = _Store.apply(coefficients, *store)  # type: ignore[no-untyped-call]

    def weights(self, assemblies: Sequence[Assembly], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Mix weights of the given shapes."""
        if self.is_fast:
            each = zip(assemblies, shapes, strict=True)
            return [self.recomputed("a weight", assembly, shape).read() for assembly, shape in each]
        vectors = mix_plain(self.store, self.coefficients, assemblies)
        return [vector.view(tuple(shape)) for vector, shape in zip(vectors, shapes, strict=True)]

    def recomputed(self, label: str, assembly: Assembly, shape: Sequence[int]) -> Recomputed:
        """Mix a weight of a shape whenever it is read."""
        return Recomputed(_Mixed(label, shape, self, assembly))


class _Mixed(Recipe):
    """One weight of a mixture."""

    def __init__(self, label: str, shape: Sequence[int], mixture: Mixture, assembly: Assembly) -> None:
        super().__init__(label, shape, (mixture.handle,))
        self._mixture = mixture
        self._assembly = assembly

    def compute(self) -> Tensor:
        mixture = self._mixture
        mixture.versions.check(self.label)
        with torch.no_grad():
            weight = mixture.buffers.empty(self._assembly.numel, mixture.flat[0])
            grid = self._assembly.grid(weight)
            for patch in self._assembly.patches:
                for template, entries, place in _runs(patch, patch.view_in(grid), mixture.flat, mixture.sizes):
                    scale = mixture.scales[patch.combination.start + template]
                    if template == 0:
                        torch.mul(entries, scale, out=place)
                    else:
                        _add_scaled(place, entries, scale)
            return weight.view(self.shape)

    def gradients(self, grad: Tensor, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """Add the gradient to those of the other weights; the node of the store hands all of them on at the end."""
        node: Any = self._mixture.handle.grad_fn
        # A backward pass that failed half-way may have left sums behind.
        task = torch._C._current_graph_task_id()
        if node.sums is None or node.sums.task != task:
            node.sums = _Sums(task, node.saved_tensors, node.needs_input_grad)
        grid = self._assembly.grid(grad.reshape(-1))
        for patch in self._assembly.patches:
            node.sums.add(patch, patch.gather(grid))
        return (None,)


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


class _Sums:
    """The gradients of the store and the coefficients, while those of the vectors arrive."""

    def __init__(self, task: int, tensors: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.task = task
        self.tensors = tensors
        self.needed = needed
        self.later: list[tuple[Patch, Tensor]] = []
        self.positions: list[int] = []
        self.products: list[Tensor] = []
        self.flat, self.scales = [piece.view(-1) for piece in tensors[1:]], _scalars(tensors[0])
        self.sizes = tuple(map(len, self.flat))
        self.store_grads: list[Tensor | None] = [None] * len(self.flat)

    def add(self, patch: Patch, grad: Tensor) -> None:
        if torch.is_grad_enabled():  # create_graph=True: the gradient has to be differentiable itself
            self.later.append((patch, grad))
            return
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
            vectors = _combine(store, coefficients, [patch for patch, _ in self.later])
            inputs = [tensor for tensor in self.tensors if tensor.requires_grad]
            outputs = [grad for _, grad in self.later]
            grads = iter(torch.autograd.grad(vectors, inputs, outputs, create_graph=True, allow_unused=True))
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
