"""Generated weights outside of a forward pass: computed when they are used, and read-only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from shapeshift.errors import GeneratedWeightError
from shapeshift.generators import WeightGenerator

# Attributes of the lazy weight itself: reading them must not generate the weight.
_ATTRIBUTES = [
    "shape",
    "dtype",
    "device",
    "layout",
    "ndim",
    "requires_grad",
    "is_leaf",
    "grad",
    "grad_fn",
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
}
_FREEZING = {Tensor.requires_grad.__set__, Tensor.requires_grad_}  # type: ignore[attr-defined]
_DETACHING = {Tensor.data.__get__, Tensor.detach}  # type: ignore[attr-defined]
# Setters and hooks: on a generated weight they would be lost silently.
_HOOKING = {"register_hook", "register_post_accumulate_grad_hook", "retain_grad"}
_WRITING = {"__set__", "__delete__", "__setitem__", *_HOOKING}


class LazyWeight(Tensor):
    """A generated weight that is computed when it is used, and cannot be written to.

    Shape, dtype and device are known without generating. Every other operation generates the weight, with a graph to
    the shared parameters where gradients are enabled, and returns ordinary tensors. In-place operations, assignments
    and hooks raise :class:`~shapeshift.errors.GeneratedWeightError`, since they would be lost.
    """

    _generator: WeightGenerator[Any]
    _index: int

    @classmethod
    def of(cls, generator: WeightGenerator[Any], index: int, detached: bool = False) -> LazyWeight:
        """Make the lazy weight of an index in a generator's group."""
        parameter = next(generator.parameters())
        lazy = Tensor._make_wrapper_subclass(
            cls,
            generator.weights[index].shape,
            dtype=parameter.dtype,
            device=parameter.device,
            requires_grad=not detached
            and index not in generator.held
            and any(found.requires_grad for found in generator.parameters()),
        )
        lazy._generator, lazy._index = generator, index
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
                return cls.of(args[0]._generator, args[0]._index, detached=True)
            inplace = name in _WRITING or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
            if inplace and name not in ("__invert__", "__index__", "__int__"):
                _refuse(name, next(iter((*args, *kwargs.values())), None))
            _refuse(name, kwargs.get("out"))
            args, kwargs = tree_map_only(LazyWeight, LazyWeight._compute, (args, kwargs))
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:  # as torch.tensor() reads what it copies
            return args[0]._compute().detach()
        _refuse(str(func), (args, kwargs))
        raise AssertionError(f"{func} was dispatched to {cls.__name__} without one")

    def is_made_by(self, generator: WeightGenerator[Any], index: int) -> bool:
        """Tell whether this is the weight of an index in a generator's group."""
        return self._generator is generator and self._index == index

    def _hold(self, held: bool) -> LazyWeight:
        """Let the weight pass on no gradient to the shared parameters, or let it do so again."""
        generator, index = self._generator, frozenset({self._index})
        generator.held = generator.held | index if held else generator.held - index
        return self.of(generator, self._index)

    def _compute(self) -> Tensor:
        # Gradient checkpointing matches what a block saves when it is run again in the backward pass with what it
        # saved at first, when the weights were there already: it must not see what generating them saves.
        transformed = torch._C._are_functorch_transforms_active()
        hidden = contextlib.nullcontext() if transformed else saved_tensors_hooks(_keep, _keep)
        with hidden, torch.set_grad_enabled(torch.is_grad_enabled() and self.requires_grad):
            return self._generator.generate([self._index])[0]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({self._compute()!r})"


def _keep(tensor: Tensor) -> Tensor:
    return tensor


def _refuse(name: str, written: Any) -> None:
    """Raise if an operation writes to a generated weight, be it alone or in a list."""
    for found in tree_leaves(written):
        if isinstance(found, LazyWeight):
            weight = found._generator.weights[found._index]
            raise GeneratedWeightError(
                f"{weight.name} {weight.shape} is generated from shared parameters: {name} on it would be lost. "
                "Write to model.shapeshift's parameters, or call shapeshift.materialize(model) first"
            )
