"""The weights of a running forward pass, and where layers read them."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.fx import Tracer

from shapeshift.errors import GeneratedWeightError, ShapeshiftWarning
from shapeshift.generators import WeightGenerator
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.running.modes import is_eager
from shapeshift.surgery.lazy_weight import GradientHooks, LazyWeight, run_hooks, versions_of
from shapeshift.surgery.orphans import warn_without_owner
from shapeshift.surgery.traced_pass import TracedPass, check_untraced
from shapeshift.weights import Weight


class ForwardPass(NamedTuple):
    """The weights that were generated for one forward pass, and the parameters that they were generated from.

    Attributes:
        weights: all weights of a group, in their order.
        parameters: the parameters that they were generated from.
        differentiable: whether they have a graph to the parameters.
        versions: how often the weights, and then the parameters, had been written to; None under a compiler or a
            function transform.
    """

    weights: Sequence[Tensor]
    parameters: Sequence[Tensor]
    differentiable: bool
    versions: Sequence[int] | None

    @classmethod
    def of(cls, weights: Sequence[Tensor], parameters: Sequence[Tensor]) -> Self:
        """Describe a pass that starts now."""
        versions = versions_of([*weights, *parameters]) if is_eager() else None
        return cls(weights, parameters, torch.is_grad_enabled(), versions)

    @property
    def is_current(self) -> bool:
        """Whether a layer that reads now may use the weights.

        Weights of a pass under no_grad have no graph, and a step of an optimizer in the middle of a pass makes them
        old.
        """
        if torch.is_grad_enabled() and not self.differentiable:
            return False
        if self.versions is None or not is_eager():
            return True
        return versions_of(self.parameters) == self.versions[len(self.weights) :]

    def overwritten(self) -> list[int]:
        """Return the indices of the weights that were written to."""
        if self.versions is None or not is_eager():
            return []
        counts = zip(versions_of(self.weights), self.versions[: len(self.weights)], strict=True)
        return [index for index, (now, before) in enumerate(counts) if now != before]


class WeightSource:
    """Where layers read the weights of one group.

    During a forward pass of the model, between :meth:`begin` and :meth:`end`, all weights of the group are generated
    once, together. At any other time a layer reads a lazy weight, which is generated when it is used.

    Args:
        generator: The generator of the group.
        path: The dotted path of the generator from the root of the model.
    """

    #: The shared parameters that hold the generator; None for a copy that was made without them.
    owner: weakref.ref[Any] | None = None
    #: Whether a warning has said that there are none.
    warned = False

    def __init__(self, generator: WeightGenerator[Any], path: str) -> None:
        self.generator = generator
        self.path = path
        #: The hooks on the gradients of weights, by the weights' indices.
        self.hooks: dict[int, GradientHooks] = {}
        self._buffers = BufferPool()
        self._has_warned = False
        self._thread = _Thread()

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The weights of the group."""
        return self.generator.weights

    @property
    def is_running(self) -> bool:
        """Whether a forward pass has begun and not ended."""
        return self._thread.current is not None

    def begin(self, tracer: Tracer | None = None) -> None:
        """Generate every weight for the forward pass that starts now, or let the graph of a tracer generate them."""
        if tracer is not None:
            self._thread.current = TracedPass(self.generator, tracer)
            return
        if self.generator.held:
            self._warn_of_held_weights()
        weights = self.generator.generate(range(len(self.weights)), self._buffers)
        for index, hooks in list(self.hooks.items()):
            if hooks and weights[index].requires_grad:
                run_hooks(weights[index], hooks)
        self._thread.current = ForwardPass.of(weights, list(self.generator.parameters()))

    def _warn_of_held_weights(self) -> None:
        """Warn once if weights that pass on no gradient share a store that others train."""
        trained = any(parameter.requires_grad for parameter in self.generator.parameters())
        free = [weight.name for index, weight in enumerate(self.weights) if index not in self.generator.held]
        if self._has_warned or not (trained and free and torch.is_grad_enabled()):
            return
        self._has_warned = True
        name = self.weights[min(self.generator.held)].name
        warnings.warn(
            f"requires_grad of {name} is False, so it passes on no gradient. But it is generated from parameters that "
            f"{free[0]} trains, so its values change with them. Give it a group of its own by mapping=, or keep it out "
            "with exclude=",
            ShapeshiftWarning,
            stacklevel=2,
        )

    def read(self, index: int) -> Tensor:
        """Return one weight: that of the running forward pass, or a lazy one."""
        current = self._thread.current
        if current is not None and current.is_current:
            weight: Tensor = current.weights[index]
            return weight
        return self.read_lazily(index)

    def read_lazily(self, index: int) -> Tensor:
        """Return one weight as a lazy one; compilers, tracers and function transforms get its values."""
        if torch.compiler.is_compiling():
            return self.generator.generate([index])[0]
        if isinstance(self._thread.current, TracedPass):
            values: Tensor = self._thread.current.weights[index].clone()
            return values
        check_untraced(self.weights[index])
        if not is_eager():
            return self.generator.generate([index])[0]
        warn_without_owner(self, index)
        return LazyWeight.of(self.generator, index, self.hooks)

    def check_unwritten(self) -> None:
        """Raise if the forward pass wrote to a weight; the write would be lost.

        Raises:
            GeneratedWeightError: if so.
        """
        current = self._thread.current
        overwritten = current.overwritten() if current is not None else []
        if overwritten:
            weight = self.weights[overwritten[0]]
            raise GeneratedWeightError(
                f"{weight.name} {weight.shape} is generated from shared parameters, and was written to during the "
                "forward pass, where the write is lost. Write before shapeshift.compress(model, ...), or keep the "
                "weight out with exclude="
            )

    def end(self) -> None:
        """Forget the weights of the forward pass that ends now."""
        self._thread.current = None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start outside of any forward pass, and without hooks, as those of parameters do.
        return {**self.__dict__, "_thread": None, "hooks": {}, "owner": None, "warned": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=_Thread())


class _Thread(threading.local):
    """The running forward pass of each thread, so that threads which train one model at once read their own weights."""

    current: ForwardPass | TracedPass | None = None
