"""A ring: all weights of a group read the same entries, each equally often, in a random order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from shapeshift.generators.base import GENERATORS, GeneratorOptions, Layout, Planner, starting_at_zero, typical_std
from shapeshift.generators.description import GroupDescription, StoreSpan, WeightDescription
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.generators.mixing.blocks import RingMixture, Stretch, order_of_blocks, signs_of_blocks
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.store import empty_store, fill_store
from shapeshift.weights import Weight

# A ring holds at least this many blocks, so that a part of one that is left out is at most 1% of the budget.
_LEAST_BLOCKS = 100


@dataclass(frozen=True)
class RingLayout(Layout):
    """The size of a ring.

    Attributes:
        size: the number of entries, a multiple of the block's.
        block: the number of entries in a block.
        zeros: the number of weights that start at zero, each of which has a learned factor.
        seed: the seed of the order of the blocks and of their signs.
    """

    size: int
    block: int
    zeros: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.block <= self.size or self.size % self.block or not 0 <= self.seed < 2**63:
            raise ValueError(f"no such ring exists: {self}")

    @property
    def num_parameters(self) -> int:
        return self.size + self.zeros

    def describe(self, weights: Sequence[Weight]) -> GroupDescription:
        """Describe each weight by the whole ring, since its entries lie all over it."""
        span = StoreSpan("store", 0, self.size)
        described = [WeightDescription((span,), upsampled=self.size < weight.numel) for weight in weights]
        return GroupDescription({"store": self.size}, self.zeros, tuple(described))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], weights: Sequence[Weight]) -> Self:
        layout = cls(**{name: int(value) for name, value in fields.items()})
        total, zeros = sum(weight.numel for weight in weights), len(starting_at_zero(weights))
        if layout.size > total or layout.zeros != zeros:
            raise ValueError(f"{layout} for weights of {total} entries, of which {zeros} weights start at zero")
        return layout


class RingPlanner(Planner[RingLayout]):
    """Lays out the largest ring that fits, in blocks as large as the config allows."""

    @property
    def least(self) -> int:
        return 1 + self.num_zero_weights

    @property
    def most(self) -> int:
        return self.total + self.num_zero_weights

    def lay_out(self, available: int) -> RingLayout:
        size = min(available - self.num_zero_weights, self.total)
        block = max(1, min(self.options.ring_block, size // _LEAST_BLOCKS))
        if size == self.total:  # each weight can have entries of its own: leave none out
            block = max(found for found in range(1, block + 1) if size % found == 0)
        return RingLayout(size - size % block, block, self.num_zero_weights)


@GENERATORS.register("ring")
class Ring(MixedGenerator[RingLayout]):
    r"""Read every entry from one ring: :math:`W_l[i] = z_l g_l s_p R[\pi(p)]` for the position p of the entry.

    These are the Recurrent Parameter Generators of Wang et al. 2023 ("Recurrent Parameter Generators", section 3).
    The entries of all weights of a group are laid end to end. As many copies of the ring as they need follow one
    another, the last one cut off, so that each entry of the ring is read equally often, within one. :math:`\pi`
    permutes them over all weights, and :math:`s` is a random sign. Both are hashes of positions, so that nothing is
    stored beside the ring. The gain :math:`g_l` is a constant that gives the weight its starting standard deviation.
    The factor :math:`z_l` of a weight that starts at zero is learned and starts at zero; that of any other is 1.

    Whole blocks of ``ring_block`` entries are moved and get a sign, which is faster than single entries. Blocks are
    smaller where the ring has fewer than 100 of them. Order and signs are the same whatever the config's seed, so that
    a state dict fits every model of the same plan. A ring cannot use more parameters than the weights have entries.
    ``upsample`` and ``max_templates`` are ignored.
    """

    layout_type = RingLayout
    fits = True

    def __init__(self, weights: Sequence[Weight], layout: RingLayout) -> None:
        super().__init__(weights, layout)
        numels = [weight.numel for weight in weights]
        self.assemblies = [
            Stretch(end - numel, numel, layout.block, index)
            for index, (numel, end) in enumerate(zip(numels, itertools.accumulate(numels), strict=True))
        ]
        total, block = sum(numels), layout.block
        with torch.inference_mode(False):
            order = order_of_blocks(-(-total // block), total // block, layout.seed) % (layout.size // block)
            signs = signs_of_blocks(len(order), layout.seed)
            #: The block at each place and its sign, on the CPU. They are no buffers: tools that empty, cast or average
            #: those of a model leave them alone.
            self.pattern = torch.from_numpy(order.astype("int32")), torch.from_numpy(signs)
        self._on_device = self.pattern
        with torch.device(weights[0].device):
            self.store = empty_store(layout.size)
            self.register_buffer("gains", torch.empty(len(weights)))
        self.to(weights[0].dtype)

    @classmethod
    def planner(cls, weights: Sequence[Weight], options: GeneratorOptions) -> RingPlanner:
        return RingPlanner(weights, options)

    def scales(self) -> Tensor:
        return self.gains

    def gains_of(self, index: int) -> list[slice]:
        return [slice(index, index + 1)]

    def mixture(
        self, store: Sequence[Tensor], scales: Tensor, buffers: BufferPool | None, magnitudes: bool = False
    ) -> RingMixture:
        order, signs = self._placed_pattern()
        return RingMixture(store, scales, order, signs.abs() if magnitudes else signs, self.layout.block, buffers)

    def _placed_pattern(self) -> tuple[Tensor, Tensor]:
        """Return the blocks and signs on the device of the ring."""
        if self._on_device[0].device != self.gains.device:
            with torch.inference_mode(False):
                order, signs = self.pattern
                self._on_device = order.to(self.gains.device), signs.to(self.gains.device)
        return self._on_device

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._placed_pattern()  # before a compiler asks for it
        return self

    def draw_parameters(self, rng: torch.Generator | None) -> None:
        # Each block starts with the root mean square of its readers' deviations. One at the end counts as a whole.
        times, squares = torch.zeros(2, self.layout.size // self.layout.block)
        for weight, stretch in zip(self.weights, self.assemblies, strict=True):
            if weight.std > 0:
                rows = self.pattern[0][stretch.rows]
                times.index_add_(0, rows, torch.ones(len(rows)))
                squares.index_add_(0, rows, torch.full((len(rows),), weight.std**2))
        stds = torch.where(times > 0, squares / times, typical_std(self.weights) ** 2).sqrt()
        each = stds.repeat_interleave(self.layout.block)
        fill_store(self.store, rng, lambda begin, end: each[begin:end])
