"""Generators that mix every weight from templates of one store."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from shapeshift.generators.base import LayoutT, WeightGenerator, times
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.product import Mixture
from shapeshift.generators.recomputed import Computed, Recomputed


class Begun(NamedTuple):
    """What the weights of one pass are made from: the mixture, and the factor of each weight that starts at zero."""

    mixture: Mixture
    factors: list[Tensor | None]


class MixedGenerator(WeightGenerator[LayoutT]):
    """Mixes each weight from templates of the store, stretches it where it is larger, and applies its factor."""

    store: nn.ParameterList

    #: How each weight, or what it is stretched from, is assembled of templates.
    assemblies: list[Assembly]

    @abc.abstractmethod
    def scales(self) -> Tensor:
        """Return the factor of each template, its coefficient times its gain, in the order of the gains."""

    def upsampler(self, index: int) -> nn.Module | None:
        """Return what stretches a weight from a shorter vector; None where nothing has to."""
        return None

    def begin(self, buffers: BufferPool | None) -> Begun:
        return self.begin_with(self.scales(), buffers)

    def begin_with(self, scales: Tensor, buffers: BufferPool | None = None) -> Begun:
        """Begin as :meth:`begin` does, with other factors of the templates."""
        return Begun(Mixture(list(self.store), scales, buffers), self.factors())

    def make(self, indices: Sequence[int], begun: Begun) -> list[Tensor]:
        vectors = begun.mixture.vectors([self.assemblies[index] for index in indices])
        weights = []
        for index, vector in zip(indices, vectors, strict=True):
            upsampler = self.upsampler(index)
            weight = vector.view(self.weights[index].shape) if upsampler is None else upsampler(vector)
            weights.append(times(weight, begun.factors[index]))
        return weights

    def recompute(self, index: int, begun: Begun) -> Recomputed:
        weight, factor, upsampler = self.weights[index], begun.factors[index], self.upsampler(index)
        if upsampler is None:
            mixed = begun.mixture.recomputed(weight.name, self.assemblies[index], weight.shape)
            return mixed if factor is None else Recomputed(Computed(weight.name, weight.shape, times, [mixed, factor]))
        vector = begun.mixture.recomputed(weight.name, self.assemblies[index], (self.assemblies[index].numel,))
        own = dict(upsampler.named_parameters())  # as they are now: a call may replace them for its own time

        def stretch(vector: Tensor, *others: Tensor) -> Tensor:
            stretched = functional_call(upsampler, dict(zip(own, others, strict=False)), (vector,))
            return times(stretched, *others[len(own) :])

        factors = [] if factor is None else [factor]
        return Recomputed(Computed(weight.name, weight.shape, stretch, [vector, *own.values(), *factors]))
