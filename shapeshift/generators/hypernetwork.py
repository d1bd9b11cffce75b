"""A hypernetwork: two linear layers that generate every weight, block by block, from learned embeddings."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.generators.base import (
    GENERATORS,
    GeneratorOptions,
    Layout,
    Planner,
    WeightGenerator,
    starting_at_zero,
    times,
)
from shapeshift.generators.description import GroupDescription, StoreSpan, WeightDescription
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.recomputed import Computed, Recomputed
from shapeshift.weights import Weight

# Rows, columns, hidden units and length of the embeddings for wide residual networks (Ha, Dai and Le 2016): their
# basic kernel has 16 input channels, and 16 output channels of 3 x 3 numbers.
_REFERENCE = (16, 16 * 3 * 3, 64, 64)

# Sizes are tried at four steps to a doubling, up to 64 times the reference. At two steps, more than 1% of some small
# budgets would be left unused.
_STEPS = np.arange(-32, 25) / 4

# The most parameters for each number that is generated.
_MOST = 16


def hypernetwork(w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""Multiply the two layers out: they make a block of n x m entries linearly from its embedding.

    Row i of the block of an embedding z is :math:`W_{out} (W_i z + B_i) + b_{out}` (Ha, Dai and Le 2016, section 3.1).
    With :math:`W_{out} W_i` at hand, that is one product for each block instead of two, and no hidden units are kept.

    Args:
        w_in: the matrices :math:`W_i` of the first layer, of shape (n, d, z).
        b_in: its biases :math:`B_i`, of shape (n, d).
        w_out: the matrix of the second layer, of shape (m, d).
        b_out: its bias, of shape (m,); None for none.

    Returns:
        The matrix and the bias that make a block's rows, one after another, from its embedding, of shapes (n m, z) and
        (n m,).
    """
    return (w_out @ w_in).flatten(0, 1), F.linear(b_in, w_out, b_out).flatten()


@dataclass(frozen=True)
class HypernetworkLayout(Layout):
    """The sizes of a hypernetwork.

    Attributes:
        rows: the rows of a block, n.
        columns: the columns of a block, m.
        hidden: the hidden units of each row, d.
        embedding: the length of an embedding.
        bias: whether the second layer has a bias.
        blocks: the number of blocks of each weight, in the group's order.
        zeros: the number of weights that start at zero, each of which has a learned factor.
    """

    rows: int
    columns: int
    hidden: int
    embedding: int
    bias: bool
    blocks: tuple[int, ...]
    zeros: int

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.hidden, self.embedding, *self.blocks) < 1 or self.zeros < 0:
            raise ValueError(f"no such sizes exist: {self}")

    @property
    def input_size(self) -> int:
        """The number of parameters of the first layer."""
        return self.rows * self.hidden * (self.embedding + 1)

    @property
    def output_size(self) -> int:
        """The number of parameters of the second layer."""
        return self.columns * (self.hidden + self.bias)

    @property
    def num_coefficients(self) -> int:
        """The number of all other parameters: the embeddings, and the factors of weights that start at zero."""
        return sum(self.blocks) * self.embedding + self.zeros

    @property
    def num_parameters(self) -> int:
        return self.input_size + self.output_size + self.num_coefficients

    def describe(self, weights: Sequence[Weight]) -> GroupDescription:
        """Describe which part of the two layers each weight comes from: all, unless it is smaller than a block.

        A weight counts as upsampled if it has more entries than it reads of either layer.
        """
        described = []
        for weight in weights:
            rows = min(self.rows, math.ceil(weight.numel / self.columns))
            columns = min(self.columns, weight.numel)
            spans = (
                *_read("input", rows * self.hidden, self.rows * self.hidden, self.embedding, bias=True),
                *_read("output", columns, self.columns, self.hidden, self.bias),
            )
            largest = max(span.end - span.begin for span in spans)
            described.append(WeightDescription(spans, upsampled=largest < weight.numel))
        stores = {"input": self.input_size, "output": self.output_size}
        return GroupDescription(stores, self.num_coefficients, tuple(described))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], weights: Sequence[Weight]) -> Self:
        layout = cls(**{**fields, "blocks": tuple(fields["blocks"])})
        blocks, zeros = _count_blocks(weights, layout.rows, layout.columns), len(starting_at_zero(weights))
        if (layout.blocks, layout.zeros) != (blocks, zeros):
            raise ValueError(
                f"a layout of {layout.blocks} blocks and {layout.zeros} weights that start at zero, "
                f"for weights of {blocks} blocks of which {zeros} start at zero"
            )
        return layout


class HypernetworkPlanner(Planner[HypernetworkLayout]):
    """Chooses among all sizes that a group's hypernetwork may have.

    The sizes are arrays with an axis each for n, m, d and the bias.
    """

    def __init__(self, weights: Sequence[Weight], options: GeneratorOptions) -> None:
        super().__init__(weights, options)
        numels = Counter(weight.numel for weight in weights)
        self.axes = [*(_around(reference, self.largest) for reference in _REFERENCE[:3]), np.array([1, 0])]
        rows, columns, hidden, bias = self.sizes = np.ix_(*self.axes)
        blocks = sum(count * -(-numel // (rows * columns)) for numel, count in numels.items())
        self.allowed = ((rows - 1) * columns < self.largest) & (hidden <= columns)
        # The parameters for each entry of an embedding, and the others.
        self.growing = blocks + rows * hidden
        self.fixed = rows * hidden + columns * (hidden + bias) + self.num_zero_weights

    @functools.cached_property
    def least(self) -> int:
        """The parameters of the smallest layers: one hidden unit, embeddings of one entry, no bias at last."""
        return int(np.where(self.allowed, self.fixed + self.growing, np.inf).min())

    @functools.cached_property
    def most(self) -> int:
        """The parameters of the largest layers: about 16 for each entry that is generated."""
        return self._largest.num_parameters

    def lay_out(self, available: int) -> HypernetworkLayout:
        return self._largest if self._largest.num_parameters <= available else self.nearest(available)

    @functools.cached_property
    def _largest(self) -> HypernetworkLayout:
        return self.nearest(_MOST * self.total)

    def nearest(self, available: int) -> HypernetworkLayout:
        """Return the sizes nearest to the reference of those that use at least 99% of ``available`` parameters.

        Sizes with a bias come first. Where none use 99%, those that use most are taken.
        """
        embedding = np.maximum(1, (available - self.fixed) // self.growing)
        total = self.fixed + embedding * self.growing
        total = np.where(self.allowed & (total <= available), total, 0)
        enough = total >= min(self.least_used * available, total.max())
        rows, columns, hidden, bias = self.sizes
        if (enough & (bias == 1)).any():
            enough &= bias == 1
        sizes = zip((rows, columns, hidden, embedding), _REFERENCE, strict=True)
        distance = sum(np.log(size / reference) ** 2 for size, reference in sizes)
        chosen = np.unravel_index(np.where(enough, distance, np.inf).argmin(), enough.shape)
        n, m, d, with_bias = (int(axis[place]) for axis, place in zip(self.axes, chosen, strict=True))
        blocks = _count_blocks(self.weights, n, m)
        return HypernetworkLayout(n, m, d, int(embedding[chosen]), bool(with_bias), blocks, self.num_zero_weights)


class _Begun(NamedTuple):
    """What the weights of one pass are made from: both layers in one, the embeddings and the factor of each weight."""

    weight: Tensor
    bias: Tensor
    embeddings: Sequence[Tensor]
    factors: Sequence[Tensor | None]
    buffers: BufferPool

    def of(self, index: int) -> list[Tensor]:
        """Return what one weight is made from."""
        factor = self.factors[index]
        return [self.embeddings[index], self.weight, self.bias, *([] if factor is None else [factor])]


@GENERATORS.register("hypernetwork")
class Hypernetwork(WeightGenerator[HypernetworkLayout]):
    r"""Generate :math:`g_l (W_{out} (W_i z_{lb} + B_i) + b_{out})` for each row i of each block b of weight l.

    This is the static hypernetwork of two layers of Ha, Dai and Le 2016 ("HyperNetworks", section 3.1), which the
    papers on shared parameters compare with. Each block of n x m numbers has a learned embedding :math:`z_{lb}`, and
    all share the two layers. A weight is its blocks end to end, the last one cut off, times a constant gain
    :math:`g_l` that gives it its starting standard deviation. A weight that starts at zero is multiplied by a learned
    number that starts at zero.

    The sizes are n x m = 16 x 144 and d = z = 64, as for Ha et al.'s wide residual networks, where these meet the
    budget. Elsewhere they are the nearest (the least sum of squared log ratios) of all that use at least 99% of it;
    :math:`b_{out}` is left out where no sizes with it do. A block is never larger than the largest weight, or some of
    its entries would be read by no weight, and d is at most m, since more hidden units would only cost time.
    ``upsample`` and ``max_templates`` are ignored.
    """

    layout_type = HypernetworkLayout

    def __init__(self, weights: Sequence[Weight], layout: HypernetworkLayout) -> None:
        super().__init__(weights, layout)
        options: dict[str, Any] = {"dtype": weights[0].dtype, "device": weights[0].device}
        # Made without starting values, which would draw from torch's global generator.
        self.input = nn.utils.skip_init(nn.Linear, layout.embedding, layout.rows * layout.hidden, **options)
        self.output = nn.utils.skip_init(nn.Linear, layout.hidden, layout.columns, bias=layout.bias, **options)
        self.embeddings = nn.Parameter(torch.empty(sum(layout.blocks), layout.embedding, **options))
        self.register_buffer("gains", torch.empty(len(weights), **options))

    @classmethod
    def planner(cls, weights: Sequence[Weight], options: GeneratorOptions) -> HypernetworkPlanner:
        return HypernetworkPlanner(weights, options)

    def coefficient_parameters(self) -> list[nn.Parameter]:
        return [self.embeddings] if self.zero_factors is None else [self.embeddings, self.zero_factors]

    def stored_names(self) -> list[str]:
        return ["input.weight", "output.weight", "embeddings"]

    def gains_of(self, index: int) -> list[slice]:
        return [slice(index, index + 1)]

    def begin(self, buffers: BufferPool | None) -> _Begun:
        sizes = self.layout
        weight, bias = hypernetwork(
            self.stored(self.input.weight).view(sizes.rows, sizes.hidden, sizes.embedding),
            self.input.bias.view(sizes.rows, sizes.hidden),
            self.stored(self.output.weight),
            self.output.bias,
        )
        embeddings = self.stored(self.embeddings)
        # Split at once: the backward pass of a slice would write zeros in the shape of the whole for every weight.
        return _Begun(weight, bias, embeddings.split(sizes.blocks), self.factors(), buffers or BufferPool())

    def make(self, indices: Sequence[int], begun: _Begun) -> list[Tensor]:
        return [self._make_one(index, *begun.of(index)) for index in indices]

    def recompute(self, index: int, begun: _Begun) -> Recomputed:
        weight = self.weights[index]
        make = functools.partial(self._make_one, index)
        return Recomputed(Computed(weight.name, weight.shape, make, begun.of(index), begun.buffers))

    def _make_one(self, index: int, embeddings: Tensor, weight: Tensor, bias: Tensor, *factors: Tensor) -> Tensor:
        """Generate the weight of the given index, all its blocks in one product.

        One product for the blocks of all weights would round differently than those of a weight that is read alone,
        and takes up to twice the time on a CPU, where the blocks of one weight stay in the cache.
        """
        made, gain = self.weights[index], self.gains[index]
        blocks = F.linear(embeddings, weight * gain, bias * gain)
        return times(blocks.flatten()[: made.numel].view(made.shape), *factors)

    def draw_parameters(self, rng: torch.Generator | None) -> None:
        # Each layer keeps the variance of what it reads.
        fans = (
            (self.embeddings, 1),
            (self.input.weight, self.layout.embedding),
            (self.output.weight, self.layout.hidden),
        )
        for parameter, fan_in in fans:
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / math.sqrt(fan_in))
        self.input.bias.zero_()
        if self.output.bias is not None:
            self.output.bias.zero_()


def _around(reference: int, largest: int) -> np.ndarray[Any, Any]:
    sizes = np.unique(np.rint(reference * 2.0**_STEPS).astype(np.int64))
    return sizes[(sizes >= 1) & (sizes <= largest)]


def _count_blocks(weights: Sequence[Weight], rows: int, columns: int) -> tuple[int, ...]:
    return tuple(-(-weight.numel // (rows * columns)) for weight in weights)


def _read(store: str, used: int, outputs: int, inputs: int, bias: bool) -> list[StoreSpan]:
    """Return what the first ``used`` of a linear layer's outputs come from, its bias stored after its matrix."""
    if used == outputs:
        return [StoreSpan(store, 0, outputs * (inputs + bias))]
    matrix = StoreSpan(store, 0, used * inputs)
    return [matrix, StoreSpan(store, outputs * inputs, outputs * inputs + used)] if bias else [matrix]
