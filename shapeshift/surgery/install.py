"""Making the layers of a model read generated weights, and making them plain again."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from shapeshift.errors import ModelError
from shapeshift.generators import WeightGenerator
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.layers import attach, check_detachable, detach, generated_class
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters, put_first

ModelT = TypeVar("ModelT", bound=nn.Module)


def install(model: nn.Module, shared: SharedParameters) -> None:
    """Attach the layers of a model to the parameter groups of a plan made for it."""
    if hasattr(model, ATTRIBUTE):
        raise ModelError(f"{type(model).__name__} has an attribute {ATTRIBUTE!r} of its own; rename it first")
    by_module: dict[str, dict[str, Any]] = {"": {}}
    for group in shared.groups():
        for index, weight in enumerate(group.weights):
            for name in weight.names:
                path, _, parameter = name.rpartition(".")
                by_module.setdefault(path, {})[parameter] = (group, index)
    # A module that occurs twice in the tree has two paths and is attached once.
    modules = {id(model.get_submodule(path)): (path, found) for path, found in reversed(by_module.items())}
    # The classes first: one that cannot be derived from fails before anything is changed.
    for path, found in modules.values():
        module = model.get_submodule(path)
        try:
            generated_class(type(module), tuple(found), root=not path)  # type: ignore[arg-type]
        except Exception as error:
            raise ModelError(
                f"{path or 'the model'} ({type(module).__name__}) cannot read generated weights, since its class does "
                f"not let others derive from it: {error}. Keep it out with exclude="
            ) from error
    for path, found in modules.values():
        attach(model.get_submodule(path), found, root=not path)
    put_first(model, shared)
    shared.train(model.training)


def write_weights(module: ModelT) -> ModelT:
    """Make plain layers of a module and those below, with the weights that they read now.

    Args:
        module: the root of a compressed model, or a copy of one of its submodules; it is changed in place.

    Returns:
        The same module.

    Raises:
        ModelError: if a layer was parametrized since it was compressed.
    """
    attached = []
    for path, found in module.named_modules():
        if is_attached(found):
            check_detachable(found, path)
            attached.append(found)
    weights: dict[tuple[WeightGenerator[Any], int], nn.Parameter] = {}
    for group, index in (source for found in attached for source in weight_sources(found).values()):
        if (group, index) not in weights:
            trainable = any(parameter.requires_grad for parameter in group.parameters())
            with torch.no_grad():
                generated = group.generate([index])[0].detach().clone(memory_format=torch.contiguous_format)
            weights[group, index] = nn.Parameter(generated, requires_grad=trainable)
    for found in attached:
        detach(found, {name: weights[source] for name, source in weight_sources(found).items()})
    return module
