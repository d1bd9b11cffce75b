"""Weighted averages of templates whose entries have another order, or other signs, in each weight."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.experiments.networks import Network, Training, compressed
from shapeshift.generators.base import calibrate_gains
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.recomputed import Computed, Recomputed
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.surgery.roots import require_shared


class ScrambledAverage(WeightedAverage):
    """Mix templates in a random order of their entries, or with random signs, drawn for each weight and template.

    Attributes:
        permuted: Whether entries have a random order.
        signed: Whether entries have random signs.
    """

    permuted: bool
    signed: bool

    def begin(self, buffers: BufferPool | None) -> Any:
        store = torch.cat([self.stored(piece) for piece in self.store]).flatten()
        return store, self.scales(), self.factors(), buffers or BufferPool()

    def make(self, indices: Sequence[int], begun: Any) -> list[Tensor]:
        store, scales, factors, _ = begun
        mixed = [(self._mix(index, store, scales), factors[index]) for index in indices]
        return [weight if factor is None else weight * factor for weight, factor in mixed]

    def recompute(self, index: int, begun: Any) -> Recomputed:
        store, scales, factors, buffers = begun
        weight, factor = self.weights[index], factors[index]
        mix = functools.partial(self._mix, index)
        mixed = Recomputed(Computed(weight.name, weight.shape, mix, [store, scales], buffers))
        if factor is None:
            return mixed
        return Recomputed(Computed(weight.name, weight.shape, torch.mul, [mixed, factor], buffers))

    def _mix(self, index: int, store: Tensor, scales: Tensor) -> Tensor:
        combination = self.layout.combinations[index]
        drawn = _draw(index, combination.count, combination.size)
        weight = store.new_zeros(combination.size)
        for scale, place, (order, signs) in zip(
            scales[combination.row], combination.template_slices, drawn, strict=True
        ):
            template = store[place]
            template = template[order] if self.permuted else template
            weight = weight + scale * (template * signs if self.signed else template)
        return weight.view(self.weights[index].shape)


@functools.cache
def _draw(index: int, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Draw the order and the signs of each template of a weight, the same ones in every pass."""
    drawn = torch.Generator().manual_seed(index)
    return [
        (torch.randperm(size, generator=drawn), torch.randint(0, 2, (size,), generator=drawn) * 2.0 - 1.0)
        for _ in range(count)
    ]


def scrambled(
    network: Network, budget: str, training: Training, permuted: bool, signed: bool, **options: Any
) -> nn.Module:
    """Build a network at its own size or above, and scramble the templates of its weights.

    Args:
        network: The network that is built.
        budget: The budget of the compressed network.
        training: The training that the network is built for.
        permuted: Whether entries have a random order.
        signed: Whether entries have random signs.
        **options: Fields of :class:`shapeshift.Config`.
    """
    model = compressed(network, budget, training, **options)
    for generator in require_shared(model).generators():
        assert isinstance(generator, WeightedAverage)
        assert not generator.upsamplers
        # The parameters stay as they are: only the formula is another one.
        generator.__class__ = ScrambledAverage
        assert isinstance(generator, ScrambledAverage)
        generator.permuted, generator.signed = permuted, signed
        with torch.no_grad():
            calibrate_gains(generator)
    return model
