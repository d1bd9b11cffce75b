"""Changes of compressed adapters, which run on the plain model that has a parameter for each weight."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from shapeshift.errors import ShapeshiftWarning
from shapeshift.integrations.peft.plans import renamed
from shapeshift.surgery.install import emptied, make_plain, replace
from shapeshift.surgery.roots import find_root
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

ResultT = TypeVar("ResultT")


def root_of(model: Any, adapter_name: str) -> nn.Module | None:
    """Return the root of a compressed model if it generates weights of an adapter; None if it does not."""
    root = find_root(model)
    if root is None:
        return None
    adapters: Mapping[str, Any] = model.peft_config
    shared: SharedParameters = getattr(root, ATTRIBUTE)
    names = [f".{name}." for weight in shared.plan.weights for name in weight.names]
    if root is model:  # some methods have no names of adapters in those of their weights
        others = [f".{other}." for other in adapters if other != adapter_name]
        return root if any(not any(other in name for other in others) for name in names) else None
    return root if any(f".{adapter_name}." in name for name in names) else None


def on_plain(root: nn.Module, action: Callable[[], ResultT]) -> ResultT:
    """Run a function while the model is plain, and compress it again; weights that are gone by then are left out."""
    before: SharedParameters = getattr(root, ATTRIBUTE)
    results: list[ResultT] = []

    def act(plain: nn.Module) -> SharedParameters:
        results.append(action())
        left = dict(plain.named_parameters(remove_duplicate=False))
        groups = tuple(renamed(group, lambda name: (name,) if name in left else ()) for group in before.plan.groups)
        shared = before
        if groups != before.plan.groups:
            groups = tuple(group for group in groups if any(weight.names for weight in group.weights))
            kept = {group.name: before[group.name] for group in groups}
            shared = SharedParameters(dataclasses.replace(before.plan, groups=groups), kept)  # type: ignore[arg-type]
        take_flags(shared, plain)
        return shared

    replace(root, act)
    remaining: SharedParameters = getattr(root, ATTRIBUTE)
    if not remaining.plan.groups:
        make_plain(root)
    return results[0]


def take_flags(shared: SharedParameters, plain: nn.Module) -> None:
    """Let shared parameters train if a weight does that they generate, and hold the other weights."""
    for generator in shared.generators():
        named = [(index, weight.names) for index, weight in enumerate(generator.weights) if weight.names]
        free = {index for index, names in named if plain.get_parameter(names[0]).requires_grad}
        if bool(free) != any(parameter.requires_grad for parameter in generator.parameters()):
            generator.requires_grad_(bool(free))
        generator.held = frozenset(index for index, _ in named if index not in free) if free else frozenset()


def editing(method: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """Let a method of a PEFT model that changes an adapter run on the plain model."""

    @functools.wraps(method)
    def edit(self: Any, *args: Any, **kwargs: Any) -> ResultT:
        root = _root_of_any(self)
        if root is None:
            return method(self, *args, **kwargs)
        return on_plain(root, lambda: method(self, *args, **kwargs))

    return edit


def flagging(method: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """Let a method of a PEFT model that sets ``requires_grad`` run on the plain model, without its weights' values.

    Loops switch adapters in each step. Where one is merged, the method takes it off again and needs the values.
    """

    @functools.wraps(method)
    def flag(self: Any, *args: Any, **kwargs: Any) -> ResultT:
        root = _root_of_any(self)
        if root is None:
            return method(self, *args, **kwargs)
        if any(getattr(module, "merged", False) for module in root.modules()):
            return on_plain(root, lambda: method(self, *args, **kwargs))
        with emptied(root) as plain:
            result = method(self, *args, **kwargs)
            take_flags(getattr(root, ATTRIBUTE), plain)
        return result

    return flag


def _root_of_any(model: Any) -> nn.Module | None:
    """Return the root of a compressed model if it generates weights of any adapter."""
    roots = (root_of(model, name) for name in model.peft_config)
    return next((found for found in roots if found is not None), None)


def adding(method: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """Let a method that adds an adapter warn where a trainer copies one by the names of its parameters.

    Such a trainer gives the very configuration of the adapter that it copies. A compressed one has no such names.
    """

    @functools.wraps(method)
    def add(self: Any, adapter_name: str, peft_config: Any, *args: Any, **kwargs: Any) -> ResultT:
        copied = [name for name, config in self.peft_config.items() if config is peft_config]
        result = method(self, adapter_name, peft_config, *args, **kwargs)
        for name in copied:
            if root_of(self, name) is not None and not peft_config.is_prompt_learning:
                warnings.warn(
                    f"{adapter_name} has starting values of its own and is not a copy of {name}, which is compressed: "
                    f"its weights have no parameters to copy. If a copy is needed, call peft.set_peft_model_state_dict("
                    f"model, peft.get_peft_model_state_dict(model, adapter_name={name!r}), {adapter_name!r})",
                    ShapeshiftWarning,
                    stacklevel=2,
                )
        return result

    return add
