"""Weights that a model refers to in ways that cannot follow when they are generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.errors import ModelError
from shapeshift.plan import Plan


def check_references(model: nn.Module, plan: Plan) -> None:
    """Raise if a plain model would go on to use a weight's values of now once the weight is generated.

    A weight that a closure holds, or what shares its memory without a gradient, is not found.

    Raises:
        ModelError: if a module holds such a weight, a view of it or a module with it in an attribute of its own, be it
            alone or in a list, tuple, set or dict; if a weight has a hook that runs after its gradient has been
            accumulated; or if it stores its values in a way of its own.
    """
    storages = {}
    for weight in (weight for weight in plan.weights if weight.names):
        parameter = model.get_parameter(weight.name)
        if not _is_plain(parameter):
            raise ModelError(
                f"{weight.name} {weight.shape} is a {type(parameter).__name__}, which stores its values in a way of "
                f"its own that a generated weight cannot take over: keep it out with exclude=[{weight.name!r}]"
            )
        if getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ModelError(
                f"{weight.name} {weight.shape} has a hook that runs after its gradient has been accumulated; a "
                "generated weight accumulates none. Remove it, and register it on the parameters of model.shapeshift "
                f"afterwards, or keep the weight out with exclude=[{weight.name!r}]"
            )
        storages[parameter.untyped_storage()._cdata] = weight
    # By their dicts of parameters, which modules that stand for others share: what is read through either follows.
    registered = {id(module._parameters) for module in model.modules()}
    for path, module in model.named_modules():
        for name, found in _unregistered(module, registered):
            same = storages.get(found.untyped_storage()._cdata)
            if same is not None:
                raise ModelError(
                    f"{f'{path}.{name}'.lstrip('.')} refers to {same.name} {same.shape} without registering it, and "
                    "would keep the values of now while the weight is generated: read the weight from its layer where "
                    f"it is used, or keep it out with exclude=[{same.name!r}]"
                )


def _unregistered(module: nn.Module, registered: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors with gradients that a module's attributes hold beside its parameters, each with its name."""
    for name, value in vars(module).items():
        # An RNN's own list of its weights is made anew.
        if name not in ("_parameters", "_modules") and not (name == "_flat_weights" and isinstance(module, nn.RNNBase)):
            for entry in _entries(value):
                dicts = [part._parameters for part in entry.modules()] if isinstance(entry, nn.Module) else []
                held = (found for each in dicts if id(each) not in registered for found in each.values())
                for found in (entry, *held):
                    if isinstance(found, Tensor) and found.requires_grad and _is_plain(found):
                        yield name, found


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor has memory of its own that holds its values."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ and tensor.layout == torch.strided


def _entries(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    else:
        yield value
