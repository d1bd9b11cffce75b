"""Generators that mix every weight from templates of one store."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from shapeshift.generators.base import LayoutT, WeightGenerator, times
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.mixing.mixture import Mixture
from shapeshift.generators.mixing.product import TemplateMixture
from shapeshift.generators.recomputed import Computed, Recomputed, own_precision
from shapeshift.upsamplers import Upsampler
from shapeshift.weights import Weight


class Begun(NamedTuple):
    """What the weights of one pass are made from: the mixture, and the factor of each weight that starts at zero."""

    mixture: Mixture[Any]
    factors: list[Tensor | None]


class MixedGenerator(WeightGenerator[LayoutT]):
    """Makes each weight linearly from the store, stretches it where it is larger, and applies its factor."""

    store: nn.ParameterList

    #: How each weight, or what it is stretched from, is assembled of templates.
    assemblies: Sequence[Any]

    #: The names of the parameters, or modules, that make the factors of the templates. These are linear in each of them
    #: while the others are constant, and a fit solves for them in this order.
    linear_in: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def scales(self) -> Tensor:
        """Return the factor of each template, its coefficient times its gain, in the order of the gains."""

    def upsampler(self, index: int) -> Upsampler | None:
        """Return what stretches a weight from a shorter vector; None where nothing has to."""
        return None

    def begin(self, buffers: BufferPool | None) -> Begun:
        return self.begin_with(self.scales(), buffers)

    def begin_with(self, scales: Tensor, buffers: BufferPool | None = None) -> Begun:
        """Begin as :meth:`begin` does, with other factors of the templates."""
        return Begun(self.mixture([self.stored(piece) for piece in self.store], scales, buffers), self.factors())

    def mixture(
        self, store: Sequence[Tensor], scales: Tensor, buffers: BufferPool | None, magnitudes: bool = False
    ) -> Mixture[Any]:
        """Return what the weights of one pass are mixed from, where wanted without the signs of all factors."""
        return TemplateMixture(store, scales.abs() if magnitudes else scales, buffers)

    def made_from(self, store: Sequence[Tensor], magnitudes: bool = False) -> list[Tensor]:
        """Make all weights from another store, such as its momentum: weights are linear in it.

        Args:
            store: A tensor of the shape of each piece of the store.
            magnitudes: Whether every factor is replaced by its magnitude; that of a weight that starts at zero by one
                of at least 1.

        Returns:
            One tensor per weight, with a graph to these tensors.
        """
        factors = self.factors()
        if magnitudes:
            factors = [None if factor is None else factor.abs().clamp(min=1.0) for factor in factors]
        with own_precision(self.gains):
            begun = Begun(self.mixture(store, self.scales(), None, magnitudes), factors)
            return self.make(range(len(self.weights)), begun)

    def make(self, indices: Sequence[int], begun: Begun) -> list[Tensor]:
        shapes = [self._mixed_shape(index) for index in indices]
        mixed = begun.mixture.weights([self.assemblies[index] for index in indices], shapes)
        weights = []
        for index, found in zip(indices, mixed, strict=True):
            upsampler = self.upsampler(index)
            weights.append(times(found if upsampler is None else upsampler(found), begun.factors[index]))
        return weights

    def _mixed_shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of what is mixed: the weight, or the vector that it is stretched from."""
        return self.weights[index].shape if self.upsampler(index) is None else (self.assemblies[index].numel,)

    def recompute(self, index: int, begun: Begun) -> Recomputed:
        weight, buffers = self.weights[index], begun.mixture.buffers
        mixed = begun.mixture.recomputed(weight.name, self.assemblies[index], self._mixed_shape(index))
        factor, upsampler = begun.factors[index], self.upsampler(index)
        if upsampler is not None:
            return Recomputed(Stretched(weight, mixed, upsampler, [] if factor is None else [factor], buffers))
        if factor is None:
            return mixed
        return Recomputed(Computed(weight.name, weight.shape, times, [mixed, factor], buffers))


class Stretched(Computed):
    """A weight that is stretched from a shorter vector.

    Args:
        weight: The weight.
        vector: What it is stretched from.
        upsampler: What stretches it.
        factors: Its learned factor, or nothing.
        buffers: As in :class:`Computed`.
    """

    def __init__(
        self, weight: Weight, vector: Recomputed, upsampler: Upsampler, factors: Sequence[Tensor], buffers: BufferPool
    ) -> None:
        self._upsampler = upsampler
        # As they are now: torch.func.functional_call replaces parameters for its own time.
        self._own = dict(upsampler.named_parameters())
        super().__init__(weight.name, weight.shape, self._stretch, [vector, *self._own.values(), *factors], buffers)

    def _stretch(self, vector: Tensor, *others: Tensor) -> Tensor:
        stretched = functional_call(self._upsampler, dict(zip(self._own, others, strict=False)), (vector,))
        return times(stretched, *others[len(self._own) :])

    def write(self, result: Tensor, *sources: Tensor) -> None:
        if self._own:
            super().write(result, *sources)
        else:
            vector, *factors = sources
            self._upsampler.write(vector, result)
            for factor in factors:
                result.mul_(factor)

    def gradients(self, grad: Tensor, needed: Sequence[bool]) -> Sequence[Tensor | None]:
        if len(self.inputs) == 1 and not torch.is_grad_enabled():  # the vector alone, in which it is linear
            return [self._upsampler.adjoint(grad)]
        return super().gradients(grad, needed)
