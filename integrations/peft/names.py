"""The names of an adapter's parameters: those in the model, and their keys in the state that PEFT makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peft
from torch import nn

# The function of PEFT that is replaced.
get_state = peft.get_peft_model_state_dict


def prefix_of(model: nn.Module, root: nn.Module) -> str:
    """Return what the names of a root's parameters start with in a model."""
    return next(f"{path}." if path else "" for path, module in model.named_modules() if module is root)


def keys_of(root: nn.Module, state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the keys of each parameter of a plain model in the state of an adapter, by the parameter's name."""
    keys: dict[int, list[str]] = {}
    for key, tensor in state.items():
        keys.setdefault(id(tensor), []).append(key)
    parameters = root.named_parameters(remove_duplicate=False)
    return {name: tuple(keys[id(parameter)]) for name, parameter in parameters if id(parameter) in keys}


def names_of(model: Any, root: nn.Module, adapter_name: str) -> dict[str, tuple[str, ...]]:
    """Return the names of each parameter of an adapter in a plain model, by each of its keys in the adapter's state."""
    state = get_state(model, model.state_dict(keep_vars=True), adapter_name)
    names: dict[str, list[str]] = {}
    for name, keys in keys_of(root, state).items():
        for key in keys:
            names.setdefault(key, []).append(name)
    return {key: tuple(found) for key, found in names.items()}
