"""Generated weights outside of a forward pass: computed when they are used, and read-only."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from shapeshift.errors import GeneratedWeightError
from shapeshift.generators import WeightGenerator
from shapeshift.generators.recomputed import Versions
from shapeshift.running.modes import is_eager
from shapeshift.surgery.saved_weights import hidden

# The hooks on the gradient of one weight, by the ids of their handles.
GradientHooks = dict[int, Callable[[Tensor], Tensor | None]]

# Attributes of the lazy weight itself: reading them must not generate the weight.
_ATTRIBUTES = [
    "shape",
    "dtype",
    "device",
    "layout",
    "ndim",
    "requires_grad",
    "is_leaf",
    "grad_fn",
    "retains_grad",
    "itemsize",
    "nbytes",
    "is_cuda",
    "is_cpu",
    "is_meta",
    "is_mps",
    "is_xpu",
    "is_nested",
    "is_sparse",
    "is_sparse_csr",
    "is_quantized",
    "is_mkldnn",
]
_METADATA = {
    *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES),
    Tensor.size,
    Tensor.dim,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.nelement,
    Tensor.__len__,
    Tensor.element_size,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.is_contiguous,
    Tensor.stride,
    Tensor.storage_offset,
    Tensor.get_device,
    Tensor.retain_grad,
}
_FREEZING = {Tensor.requires_grad.__set__, Tensor.requires_grad_}  # type: ignore[attr-defined]
_DETACHING = {Tensor.data.__get__, Tensor.detach}  # type: ignore[attr-defined]
_DIFFERENTIATING = {torch.autograd.grad, torch.autograd.backward}
# Setters, and a hook that only leaves have: on a generated weight they would be lost silently.
_WRITING = {"__set__", "__delete__", "__setitem__", "register_post_accumulate_grad_hook"}

_HOW_TO_DIFFERENTIATE = (
    "Take the weight of the pass itself, which its layer's forward hooks can read: "
    "layer.register_forward_hook(lambda layer, inputs, output: weights.append(layer.weight)). Then call "
    "torch.autograd.grad(loss, weights[-1]), or weights[-1].retain_grad() before loss.backward()"
)


class LazyWeight(Tensor):
    """A generated weight that is computed when it is used, and cannot be written to.

    Shape, dtype and device are known without generating. Every other operation generates the weight and returns
    ordinary tensors. In-place operations and assignments raise :class:`~shapeshift.errors.GeneratedWeightError`, since
    they would be lost.

    The lazy weight is a node of the graph, between the shared parameters and all that is computed from it. So a
    gradient also reaches the shared parameters from code that takes the tensor as it is, such as a
    ``torch.autograd.Function``, and ``torch.autograd.grad`` by it works as for any tensor that is no leaf.
    """

    _origin: _Origin
    _exposed: list[Tensor]

    @classmethod
    def of(cls, generator: WeightGenerator[Any], index: int, hooks: dict[int, GradientHooks]) -> LazyWeight:
        """Make the lazy weight of an index in a generator's group.

        Args:
            generator: The generator of the group.
            index: The index.
            hooks: The hooks on the gradients of the group's weights, by their indices.
        """
        origin = _Origin(generator, index, hooks)
        if index in generator.held or not any(parameter.requires_grad for parameter in origin.parameters):
            return cls._make(origin)
        with torch.inference_mode(False), torch.enable_grad():
            lazy: LazyWeight = _Read.apply(origin, *origin.parameters)  # type: ignore[no-untyped-call]
        if index in hooks:
            with torch._C.DisableTorchFunctionSubclass():
                run_hooks(lazy, hooks[index])
        return lazy

    @classmethod
    def _make(cls, origin: _Origin) -> LazyWeight:
        like = origin.parameters[0]
        shape = origin.generator.weights[origin.index].shape
        lazy = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        lazy._origin, lazy._exposed = origin, []
        return lazy

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(*args, **kwargs)
            if func in _FREEZING and isinstance(args[0], LazyWeight):
                return args[0]._hold(not (args[1] if len(args) > 1 else kwargs.get("requires_grad", True)))
            name = getattr(func, "__name__", "")
            if func in _DETACHING and isinstance(args[0], LazyWeight):
                return cls._make(args[0]._origin)
            if func is Tensor.register_hook and isinstance(args[0], LazyWeight):
                return args[0]._register_hook(*args[1:], **kwargs)
            if func == Tensor.grad.__get__:  # type: ignore[union-attr]
                return args[0]._gradient()
            if func in _DIFFERENTIATING:
                _check_used(tree_leaves(kwargs.get("inputs", args[1:2])))
                return func(*args, **kwargs)
            inplace = name in _WRITING or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
            if inplace and name not in ("__invert__", "__index__", "__int__"):
                _refuse(name, next(iter((*args, *kwargs.values())), None))
            _refuse(name, kwargs.get("out"))
            computed_args, computed_kwargs = tree_map_only(LazyWeight, LazyWeight._compute, (args, kwargs))
            if func is Tensor.data_ptr:  # what it points to has to live as long as the weight that was asked
                args[0]._exposed.append(computed_args[0])
            return func(*computed_args, **computed_kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        # For those that take no part in __torch_function__, such as torch.func.grad by this tensor, and torch.tensor().
        # Autograd has been here already: the gradient goes through this tensor.
        written = (given for given, declared in zip(args, func._schema.arguments, strict=False) if declared.is_write)
        _refuse(str(func), [*written, (kwargs or {}).get("out")])
        with torch.no_grad():
            args, kwargs = tree_map_only(LazyWeight, lambda lazy: lazy._origin.generate(), (args, kwargs or {}))
        return func(*args, **kwargs)

    def is_made_by(self, generator: WeightGenerator[Any], index: int) -> bool:
        """Tell whether this is the weight of an index in a generator's group."""
        return self._origin.generator is generator and self._origin.index == index

    def _hold(self, held: bool) -> LazyWeight:
        """Let the weight pass on no gradient to the shared parameters, or again; alone if all were frozen."""
        generator, index = self._origin.generator, frozenset({self._origin.index})
        if not held and not any(parameter.requires_grad for parameter in self._origin.parameters):
            generator.requires_grad_(True)
            generator.held = frozenset(range(len(generator.weights)))
        generator.held = generator.held | index if held else generator.held - index
        return self.of(generator, self._origin.index, self._origin.hooks)

    def _compute(self) -> Tensor:
        """Return the values, with a graph through this tensor where gradients are enabled."""
        origin = self._origin
        if not is_eager():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.requires_grad):
                return origin.generate()
        if self.requires_grad and not origin.versions.are_current:  # a step was made since it was read
            return LazyWeight.of(origin.generator, origin.index, origin.hooks)._compute()
        origin.is_used |= self.requires_grad
        if not (self.requires_grad and torch.is_grad_enabled()):
            with torch.no_grad():
                return origin.generate()
        origin.weight = origin.generate_hidden()
        values: Tensor = _Use.apply(self, [origin.weight.detach()])  # type: ignore[no-untyped-call]
        return values

    def _register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Register a hook on the weight's gradient, here and in all passes to come, as on a parameter's."""
        if not self.requires_grad:
            return Tensor.register_hook(self, hook)  # type: ignore[no-any-return,no-untyped-call]  # raises
        hooks = self._origin.hooks.setdefault(self._origin.index, OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        if self._backward_hooks is None:
            run_hooks(self, hooks)
        return handle

    def _gradient(self) -> Tensor | None:
        """Return the gradient that this tensor retains."""
        if self.requires_grad and not self.retains_grad:
            raise GeneratedWeightError(
                f"{self._origin} is generated from shared parameters, which have the gradient: it has none of its own. "
                f"{_HOW_TO_DIFFERENTIATE}"
            )
        return self.grad

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({self._compute()!r})"


class _Origin:
    """What a lazy weight is generated from, and whether it was.

    Args:
        generator: The generator of its group.
        index: Its index there.
        hooks: The hooks on the gradients of the group's weights, by their indices.
    """

    def __init__(self, generator: WeightGenerator[Any], index: int, hooks: dict[int, GradientHooks]) -> None:
        self.generator = generator
        self.index = index
        self.hooks = hooks
        self.parameters = list(generator.parameters())
        self.versions = Versions(self.parameters)
        #: Whether anything was computed from the weight.
        self.is_used = False
        #: The values that were used last, with a graph to the parameters; None before that and after the backward pass.
        self.weight: Tensor | None = None

    def __str__(self) -> str:
        weight = self.generator.weights[self.index]
        return f"{weight.name} {weight.shape}"

    def generate(self) -> Tensor:
        """Generate the weight from the parameters as they are now."""
        return self.generator.generate([self.index])[0]

    def generate_hidden(self) -> Tensor:
        """Generate the weight with a graph, and hide what that saves."""
        with hidden(), torch.enable_grad():
            return self.generate()

    def take_weight(self) -> Tensor:
        """Return the values that were used last, for the backward pass, and forget them unless the graph is kept."""
        self.versions.check(str(self))
        weight = self.weight
        if weight is None:
            pairs = zip(self.generator.parameters(), self.parameters, strict=True)
            if any(now is not before for now, before in pairs):
                raise GeneratedWeightError(
                    f"{self} was generated from shared parameters that have been replaced since, as by the end of a "
                    "torch.func.functional_call: call the model as a whole, so that its weights are made in its forward"
                )
            weight = self.generate_hidden()
        self.weight = weight if torch._C._autograd._get_current_graph_task_keep_graph() else None  # type: ignore[attr-defined]
        return weight


class _Read(torch.autograd.Function):
    """From the parameters of a group to a lazy weight. The gradient goes through what was computed from them."""

    @staticmethod
    def forward(ctx: Any, origin: _Origin, *parameters: Tensor) -> LazyWeight:
        ctx.set_materialize_grads(False)
        ctx.origin = origin  # not saved by torch: see generate_hidden
        return LazyWeight._make(origin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        weight = None if grad is None else ctx.origin.take_weight()
        if weight is None or not weight.requires_grad:
            return (None,) * len(ctx.needs_input_grad)
        needed = [found for found, needs in zip(ctx.origin.parameters, ctx.needs_input_grad[1:], strict=True) if needs]
        twice = torch.is_grad_enabled()
        grads = iter(
            torch.autograd.grad(weight, needed, grad, retain_graph=True, create_graph=twice, allow_unused=True)
        )
        return None, *(next(grads) if needs else None for needs in ctx.needs_input_grad[1:])


class _Use(torch.autograd.Function):
    """From a lazy weight to its values."""

    @staticmethod
    def forward(ctx: Any, lazy: LazyWeight, values: list[Tensor]) -> Tensor:
        return values[0]  # in a list, since a function that returns a tensor it was given makes a view of it

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def run_hooks(weight: Tensor, hooks: GradientHooks) -> None:
    """Let the gradient of a weight, which is no leaf, go through the hooks that are there when it arrives."""
    if torch.compiler.is_compiling() or is_eager():  # function transforms leave the hooks of parameters out as well
        weight.register_hook(functools.partial(_through, hooks))


def _through(hooks: GradientHooks, grad: Tensor) -> Tensor:
    for hook in list(hooks.values()):
        replaced = hook(grad)
        grad = grad if replaced is None else replaced
    return grad


def _check_used(inputs: Sequence[Any]) -> None:
    """Raise if one of the tensors to differentiate by is a lazy weight from which nothing was computed."""
    for found in inputs:
        if isinstance(found, LazyWeight) and not found._origin.is_used:
            raise GeneratedWeightError(
                f"{found._origin} is generated from shared parameters, anew for each forward pass: what was read here "
                f"is not what the loss was computed from. {_HOW_TO_DIFFERENTIATE}"
            )


def _refuse(name: str, written: Any) -> None:
    """Raise if an operation writes to a generated weight, be it alone or in a list."""
    for found in tree_leaves(written):
        if isinstance(found, LazyWeight):
            raise GeneratedWeightError(
                f"{found._origin} is generated from shared parameters: {name} on it would be lost. "
                "Write to model.shapeshift's parameters, or call shapeshift.materialize(model) first"
            )
