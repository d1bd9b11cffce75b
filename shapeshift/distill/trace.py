"""Traces of a forward pass: the calls of modules, in order, and the tensors that they take and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shapeshift.errors import ModelError
from shapeshift.running.batches import call_model
from shapeshift.running.modes import evaluating

_RELUS: frozenset[Callable[..., Any]] = frozenset(
    {F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}  # type: ignore[attr-defined]
)


@dataclass(frozen=True)
class Value:
    """A tensor at one moment; a later write to the tensor makes another value of it.

    Attributes:
        tensor: The tensor, with its present entries.
        version: The number of writes to the tensor before that moment.
    """

    tensor: Tensor
    version: int

    @classmethod
    def find(cls, nested: Any) -> Value | None:
        """Return the first tensor in nested tuples, lists and dicts, as it is now."""
        tensor = first_tensor(nested)
        return None if tensor is None else cls(tensor, tensor._version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and (self.tensor is other.tensor and self.version == other.version)

    def __hash__(self) -> int:
        return hash((id(self.tensor), self.version))

    @property
    def is_overwritten(self) -> bool:
        """Whether the tensor was written to since."""
        return self.tensor._version != self.version


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: The dotted path of the module; empty for the model itself.
        module: The module.
        input: The first tensor among its arguments.
        output: The first tensor in its output.
        end: The position of the call in the order in which calls ended.
        inner: All calls inside it, at any depth.
    """

    path: str
    module: nn.Module
    input: Value | None
    output: Value | None = None
    end: int = -1
    inner: list[Call] = field(default_factory=list)

    @property
    def parent(self) -> str:
        """The dotted path of the module around it."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class ReLU:
    """One use of a ReLU, as a module or as a function.

    Attributes:
        input: The input of the ReLU.
        output: The output of the ReLU.
        inside: The dotted path of the module whose code uses it; for an ``nn.ReLU``, that of the module around it.
        end: The number of calls of modules that ended before it.
    """

    input: Value
    output: Value
    inside: str
    end: int


@dataclass(frozen=True)
class Trace:
    """A forward pass.

    Attributes:
        model: The model.
        calls: The calls of modules, in the order in which they started; the first one is that of the model.
        relus: The uses of ReLU, in order.
        output: The output of the model.
    """

    model: nn.Module
    calls: list[Call]
    relus: list[ReLU]
    output: Any


def first_tensor(nested: Any) -> Tensor | None:
    """Return the first tensor in nested tuples, lists and dicts, or None."""
    if isinstance(nested, Tensor):
        return nested
    parts = nested.values() if isinstance(nested, Mapping) else nested if isinstance(nested, (tuple, list)) else ()
    return next((tensor for tensor in map(first_tensor, parts) if tensor is not None), None)


def trace(model: nn.Module, x: Any) -> Trace:
    """Run a model once, in evaluation mode and without gradients, and record its calls.

    Args:
        model: The model, without a wrapper around it; its modes are restored afterwards.
        x: A batch, in the forms that :func:`~shapeshift.running.batches.call_model` takes.

    Raises:
        ModelError: If the pass fails.
    """
    tracer = _Tracer(model)
    try:
        with tracer, evaluating(model), torch.no_grad():
            output = call_model(model, x)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} fails on an example input ({type(error).__name__}: {error}). "
            "Give a batch that the model takes as example="
        ) from error
    return Trace(model, tracer.calls, tracer.relus, output)


class _Tracer(TorchFunctionMode):
    """A context that records the calls of a model's modules, and the uses of ReLU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.relus: list[ReLU] = []
        self._model = model
        self._open: list[Call] = []
        self._ended = 0
        self._handles: list[Any] = []

    def __enter__(self) -> _Tracer:
        for path, module in self._model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._begin(path), with_kwargs=True),
                module.register_forward_hook(self._end),
            ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # ReLU6 calls hardtanh with a lower bound of 0.
        if func not in _RELUS and not (func is F.hardtanh and (*args[1:2], kwargs.get("min_val"))[0] == 0):
            return func(*args, **kwargs)
        entered = Value.find((args, kwargs))
        result = func(*args, **kwargs)
        left = Value.find(result)
        assert entered is not None
        assert left is not None
        user = self._open[-1]
        inside = user.parent if user.input == entered else user.path
        self.relus.append(ReLU(entered, left, inside, self._ended))
        return result

    def _begin(self, path: str) -> Callable[..., None]:
        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            made = Call(path, module, Value.find((args, kwargs)))
            for around in self._open:
                around.inner.append(made)
            self.calls.append(made)
            self._open.append(made)

        return begin

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        ended = self._open.pop()
        ended.output, ended.end = Value.find(output), self._ended
        self._ended += 1
