"""The weights of a running forward pass, and where layers read them."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Tracer
from torch.utils.checkpoint import checkpoint

from shapeshift.errors import GeneratedWeightError, ShapeshiftWarning
from shapeshift.generators import WeightGenerator
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.generators.recomputed import Recomputed, Versions, own_precision, version_of
from shapeshift.running.modes import is_eager
from shapeshift.surgery.lazy_weight import GradientHooks, LazyWeight, run_hooks
from shapeshift.surgery.orphans import warn_without_owner
from shapeshift.surgery.saved_weights import SavedWeights, hidden
from shapeshift.surgery.traced_pass import TracedPass, check_untraced
from shapeshift.weights import Weight


class ForwardPass:
    """The weights of a group in one forward pass: each is generated when a layer reads it first.

    Args:
        generator: The generator of the group.
        buffers: The memory that weights are written to.
        saved: Keeps weights out of the graph, so that each lives only while its layer runs. None keeps all weights
            until the pass and its graph are gone.
        hooks: The hooks on the gradients of weights, by the weights' indices.
    """

    def __init__(
        self,
        generator: WeightGenerator[Any],
        buffers: BufferPool,
        saved: SavedWeights | None,
        hooks: Mapping[int, GradientHooks],
    ) -> None:
        self._generator = generator
        self._saved = saved
        self._hooks = hooks
        self._differentiable = torch.is_grad_enabled()
        self._is_trained = any(parameter.requires_grad for parameter in generator.parameters())
        self._versions = Versions(generator.parameters())
        self._begun = generator.start(buffers)
        self._recomputed: dict[int, Recomputed] = {}
        self._kept: dict[int, Tensor] = {}
        self._written: list[tuple[int, Tensor, int]] = []

    @property
    def is_current(self) -> bool:
        """Whether a layer that reads now may use the weights.

        Weights of a pass under no_grad have no graph, and a step of an optimizer in the middle of a pass makes them
        old.
        """
        if not is_eager():  # a compiled part of the model reads the shared parameters themselves
            return False
        return (self._differentiable or not torch.is_grad_enabled()) and self._versions.are_current

    def read(self, index: int) -> Tensor:
        """Return a weight."""
        needs_graph = self._is_trained and torch.is_grad_enabled() and index not in self._generator.held
        kept = self._kept.get(index)
        if kept is not None and (kept.requires_grad or not needs_graph):
            return kept
        if self._saved is None and self._differentiable:
            weight = self._make(index)
        else:
            self._kept.clear()  # the layer that read the last weight has run; this one may take its memory
            weight = self._recompute(index)
        self._kept[index] = weight
        self._watch(index, weight)
        return weight

    def _make(self, index: int) -> Tensor:
        with hidden(), own_precision(self._generator.gains):
            (weight,) = self._generator.make([index], self._begun)
        if index in self._generator.held:
            return weight.detach()
        if weight.requires_grad and self._hooks.get(index):
            run_hooks(weight, self._hooks[index])
        return weight

    def _recompute(self, index: int) -> Tensor:
        made = self._recomputed.get(index)
        if made is None:
            made = self._recomputed[index] = self._generator.recompute(index, self._begun)
            if made.stub.requires_grad and self._hooks.get(index):
                run_hooks(made.stub, self._hooks[index])
        weight = made.recipe.compute() if index in self._generator.held else made.read()
        if self._saved is not None:
            self._saved.add(weight, made)
        return weight

    def _watch(self, index: int, weight: Tensor) -> None:
        """Note how often a weight was written to."""
        count = weight
        if self._saved is not None or not self._differentiable:  # without its memory: a tensor that shares the count
            count = weight.detach()
            count.data = weight.new_empty(0)
        self._written.append((index, count, version_of(count)))

    def overwritten(self) -> list[int]:
        """Return the indices of the weights that were written to."""
        return [index for index, count, before in self._written if version_of(count) != before]


class WholePass:
    """The weights of a group in a forward pass under a compiler or a function transform: all generated at once."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self._differentiable = torch.is_grad_enabled()

    @property
    def is_current(self) -> bool:
        """As of a :class:`ForwardPass`."""
        return self._differentiable or not torch.is_grad_enabled()

    def read(self, index: int) -> Tensor:
        """Return a weight."""
        return self._weights[index]

    def overwritten(self) -> list[int]:
        """Return no index: the compiler knows of no count of writes."""
        return []


class WeightSource:
    """Where layers read the weights of one group.

    During a forward pass of the model, between :meth:`begin` and :meth:`end`, a layer reads the weights of that pass.
    At any other time it reads a lazy weight, which is generated when it is used.

    Args:
        generator: The generator of the group.
        path: The dotted path of the generator from the root of the model.
    """

    #: The shared parameters that hold the generator; None for a copy that was made without them.
    owner: weakref.ref[Any] | None = None

    def __init__(self, generator: WeightGenerator[Any], path: str) -> None:
        self.generator = generator
        self.path = path
        #: The hooks on the gradients of weights, by the weights' indices.
        self.hooks: dict[int, GradientHooks] = {}
        #: The memory of the weights, for passes in which they live one at a time and for others.
        self._buffers = {True: BufferPool(), False: BufferPool(keeps_all=True)}
        #: What warnings have told already.
        self.told: set[str] = set()
        self._thread = _Thread()

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The weights of the group."""
        return self.generator.weights

    @property
    def is_running(self) -> bool:
        """Whether a forward pass has begun and not ended."""
        return self._thread.current is not None

    def begin(self, tracer: Tracer | None = None, recompute: bool = False, saved: SavedWeights | None = None) -> None:
        """Start the forward pass, or let the graph of a tracer generate the weights.

        Args:
            tracer: The tracer; None without one.
            recompute: Whether weights are generated again in the backward pass.
            saved: What keeps them out of the graph; None if nothing does.
        """
        if tracer is not None:
            self._thread.current = TracedPass(self.generator, tracer)
            return
        if self.generator.held:
            self._warn_of_held_weights()
        if is_eager():
            one_at_a_time = saved is not None or not torch.is_grad_enabled()
            self._thread.current = ForwardPass(self.generator, self._buffers[one_at_a_time], saved, self.hooks)
        else:
            self._warn_of_folding()
            self._thread.current = WholePass(self._generate(range(len(self.weights)), recompute))

    def _generate(self, indices: Sequence[int], recompute: bool = False) -> list[Tensor]:
        """Generate weights together, by operations that a compiler or a function transform can follow."""
        if recompute and torch.compiler.is_compiling():
            # It tells the partitioner of the graph to generate them again in the backward pass.
            weights = checkpoint(self.generator.generate, indices, use_reentrant=False, preserve_rng_state=False)
        else:
            weights = self.generator.generate(indices)
        for index, weight in zip(indices, weights, strict=True):
            if weight.requires_grad and self.hooks.get(index):
                run_hooks(weight, self.hooks[index])
        return weights

    def _warn_of_folding(self) -> None:
        """Warn once if the exporter of TorchScript runs, whose constant folding writes the weights themselves."""
        if "folding" in self.told or torch.compiler.is_compiling():
            return
        if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():  # type: ignore[attr-defined, no-untyped-call]
            self.told.add("folding")
            warnings.warn(
                "torch.onnx.export with dynamo=False folds generated weights into constants, so that the file is as "
                "large as the dense model's: take dynamo=True, which keeps the shared parameters, or call "
                "shapeshift.materialize(model) first if the size does not matter",
                ShapeshiftWarning,
                stacklevel=2,
            )

    def _warn_of_held_weights(self) -> None:
        """Warn once if weights that pass on no gradient share a store that others train."""
        trained = any(parameter.requires_grad for parameter in self.generator.parameters())
        free = [weight.name for index, weight in enumerate(self.weights) if index not in self.generator.held]
        if "held" in self.told or not (trained and free and torch.is_grad_enabled()):
            return
        self.told.add("held")
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
            weight: Tensor = current.read(index)
            return weight
        return self.read_lazily(index)

    def read_lazily(self, index: int) -> Tensor:
        """Return one weight as a lazy one; compilers, tracers and function transforms get its values."""
        if torch.compiler.is_compiling():
            return self._generate([index])[0]
        if isinstance(self._thread.current, TracedPass):
            values: Tensor = self._thread.current.read(index).clone()
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
        return {**self.__dict__, "_thread": None, "hooks": {}, "owner": None, "told": set()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=_Thread())


class _Thread(threading.local):
    """The running forward pass of each thread, so that threads which train one model at once read their own weights."""

    current: ForwardPass | WholePass | TracedPass | None = None
