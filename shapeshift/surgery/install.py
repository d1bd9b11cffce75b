"""Making the layers of a model read generated weights, and making them plain again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from shapeshift.errors import ModelError
from shapeshift.plan import Plan
from shapeshift.surgery.attached import FORMS, ORDER, SOURCES, is_attached, original_class, set_class, weight_sources
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.surgery.layers import attach, check_attachable, check_detachable, detach, generated_class, make_part
from shapeshift.surgery.other_tools import check_rank_allocation
from shapeshift.surgery.parameter_form import ParameterForm
from shapeshift.surgery.parts import containers_of
from shapeshift.surgery.references import check_references
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters, put_first

ModelT = TypeVar("ModelT", bound=nn.Module)


def check_installable(model: nn.Module, plan: Plan) -> None:
    """Raise if the layers of a plain model cannot read the weights of a plan that was made for it.

    Raises:
        ModelError: if the model is compressed already or scripted, has an attribute ``shapeshift`` of its own, refers
            to a weight as :func:`check_references` finds, a weight is AdaLoRA's, or a layer's class lets no other
            derive from it.
    """
    check_attachable(model)
    if hasattr(model, ATTRIBUTE):
        raise ModelError(f"{type(model).__name__} has an attribute {ATTRIBUTE!r} of its own; rename it first")
    check_references(model, plan)
    check_rank_allocation(model, (weight for weight in plan.weights if weight.names))
    for path, places in _places(model, plan).items():
        module = model.get_submodule(path)
        try:
            generated_class(type(module), tuple(places), root=not path)  # type: ignore[arg-type]
        except Exception as error:
            raise ModelError(
                f"{path or 'the model'} ({type(module).__name__}) cannot read generated weights, since its class does "
                f"not let others derive from it: {error}. Keep it out with exclude="
            ) from error


def install(model: nn.Module, shared: SharedParameters) -> None:
    """Make the layers of a plain model read the weights of shared parameters whose plan was made for it.

    Raises:
        ModelError: as :func:`check_installable`. The model is then unchanged.
    """
    check_installable(model, shared.plan)
    for path, places in _places(model, shared.plan).items():
        found = {name: (shared.sources[group], index) for name, (group, index) in places.items()}
        attach(model.get_submodule(path), found, root=not path)
    for container in containers_of(model, [name for weight in shared.plan.weights for name in weight.names]):
        if not is_attached(container):
            make_part(container)
    put_first(model, shared)
    shared.train(model.training)
    shared.start_watching(model)


def replace(root: nn.Module, build: Callable[[nn.Module], SharedParameters]) -> SharedParameters:
    """Make the layers of a compressed model read other shared parameters than so far.

    Args:
        root: The root of a compressed model; it is changed in place.
        build: Returns the new shared parameters. It gets the model, which is plain at that moment.

    Returns:
        The new shared parameters.

    Raises:
        ModelError: as :func:`write_weights` and :func:`install`. After any error the model is as it was before.
    """
    before: SharedParameters = getattr(root, ATTRIBUTE)
    make_plain(root)
    try:
        shared = build(root)
        install(root, shared)
    except BaseException:
        install(root, before)
        raise
    return shared


def make_plain(root: ModelT) -> ModelT:
    """Make a plain model of a compressed one, with the weights that its layers read now.

    Args:
        root: The root of a compressed model; it is changed in place.

    Returns:
        The same model.

    Raises:
        ModelError: as :func:`write_weights`.
    """
    write_weights(root)
    del root._modules[ATTRIBUTE]
    return root


def write_weights(module: ModelT) -> ModelT:
    """Make plain layers of a module and those below, with the weights that they read now.

    Args:
        module: The root of a compressed model, or a copy of one of its submodules; it is changed in place.

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
    weights: dict[tuple[WeightSource, int], nn.Parameter] = {}
    for found in attached:
        for name, (source, index) in weight_sources(found).items():
            if (source, index) not in weights:
                weights[source, index] = _plain(source, index, found.__dict__[FORMS][name])
    for found in module.modules():
        if not is_attached(found) and "_rebuild" in vars(type(found)):  # a part that was made one by `make_part`
            set_class(found, original_class(found))
    for found in attached:
        detach(found, {name: weights[place] for name, place in weight_sources(found).items()})
    return module


@contextlib.contextmanager
def emptied(root: nn.Module) -> Iterator[nn.Module]:
    """Show a block a compressed model as a plain one whose weights are empty, so that it costs next to nothing.

    The block may set what parameters require a gradient. It gets the model; the layers read their sources again
    afterwards, whatever became of the empty parameters.
    """
    empty: dict[tuple[WeightSource, int], nn.Parameter] = {}
    before = []
    try:
        for module in root.modules():
            if "_rebuild" not in vars(type(module)):
                continue
            kept = {name: module.__dict__.pop(name) for name in (SOURCES, ORDER, FORMS) if name in module.__dict__}
            before.append((module, type(module), {**kept, "_parameters": module._parameters}))
            set_class(module, original_class(module))
            parameters = dict(module._parameters)
            for name, (source, index) in kept.get(SOURCES, {}).items():
                trains = any(found.requires_grad for found in source.generator.parameters())
                trains = trains and index not in source.generator.held
                parameters[name] = empty.setdefault((source, index), nn.Parameter(torch.empty(0), trains))
            module.__dict__["_parameters"] = parameters
        yield root
    finally:
        for module, kind, kept in before:
            module.__dict__.update(kept)
            set_class(module, kind)


def _plain(source: WeightSource, index: int, form: ParameterForm) -> nn.Parameter:
    """Make a parameter of a generated weight, of the form that it had before, with its hooks."""
    with torch.no_grad():
        (values,) = source.generator.generate([index])
    trains = any(found.requires_grad for found in source.generator.parameters()) and index not in source.generator.held
    parameter = form.parameter(values, trains)
    if source.hooks.get(index):
        parameter._backward_hooks = source.hooks[index]
    return parameter


def _places(model: nn.Module, plan: Plan) -> dict[str, dict[str, tuple[int, int]]]:
    """Return where each module reads its weights: from its path and a parameter's name to a group and an index in it.

    The root is always among the modules. A module that occurs twice in the model is listed by its first path.
    """
    by_path: dict[str, dict[str, tuple[int, int]]] = {"": {}}
    for number, group in enumerate(plan.groups):
        for index, weight in enumerate(group.weights):
            for name in weight.names:
                path, _, parameter = name.rpartition(".")
                by_path.setdefault(path, {})[parameter] = (number, index)
    first_paths = {id(model.get_submodule(path)): path for path in reversed(by_path)}
    return {path: by_path[path] for path in first_paths.values()}
