"""Compressing a model in place, and making it a plain model again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from shapeshift.budget import Budget
from shapeshift.config import Config
from shapeshift.errors import ConfigError, ModelError
from shapeshift.fitting import fit_to_model
from shapeshift.generators import ParameterGroup
from shapeshift.layers import (
    attach,
    check_attachable,
    check_detachable,
    detach,
    generated_class,
    is_attached,
    sources,
)
from shapeshift.masking import is_masked
from shapeshift.plan import Plan, make_plan
from shapeshift.sharding import is_sharded
from shapeshift.shared_parameters import ATTRIBUTE, SharedParameters, put_first

ModelT = TypeVar("ModelT", bound=nn.Module)


@torch.inference_mode(mode=False)  # whose tensors could never be trained
def compress(
    model: ModelT,
    budget: Budget,
    config: Config | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> ModelT:
    """Replace a model's weights by values generated from shared parameters, within a budget.

    Shapeshifter networks: Plummer et al., "Neural Parameter Allocation Search", ICLR 2022, section 3.

    Args:
        model: any module; it is changed in place, and its forward and backward work as before. On the meta device
            nothing is allocated; call ``model.to_empty(...)`` and ``model.shapeshift.reset_parameters()`` afterwards.
        budget: the most trainable parameters that the model may have, each tensor counted once: an int, a fraction
            of the model's own count as a float, or a string such as "300k", "25%" or "4x". At least 99% of it is used,
            but for very small ones and for ``combine="softmax"`` and ``upsample="inter"``, whose stores grow in steps.
        config: how to share; the defaults if None.
        calibration: batches ``x``, ``(x, y)`` or dicts of the model's arguments, read once. A fit (``init="fit"``)
            then counts the errors of a weight as the outputs of its layer feel them on this data; None counts all
            numbers of a weight alike.
        progress: whether a fit shows a progress bar.
        **options: fields of :class:`Config` to set on top of ``config``, such as ``exclude=["head"]``.

    Returns:
        The same model.

    Raises:
        BudgetError: if the budget cannot be read, or lies outside of what the config allows; it names the bound.
        ConfigError: if an option is unknown, a pattern matches nothing, or there is nothing to calibrate.
        DataError: if the calibration data is empty, or holds no inputs of the model.
        ModelError: if the model has nothing to generate, or cannot be attached to, or has no values to fit. The model
            is unchanged after any error.
        MissingExtraError: if the progress bar is asked for and tqdm is not installed.
    """
    inner = compiled_from(model)
    plan = plan_compression(inner, budget, config, **options)
    if plan.config.init != "fit" and (calibration is not None or progress):
        given = "calibration" if calibration is not None else "progress"
        raise ConfigError(f'{given} is for a fit: add init="fit", or leave it out')
    shared = SharedParameters(plan)
    shared.reset_parameters()
    if plan.config.init == "fit":
        fit_to_model(shared, inner, calibration, progress)
    install(inner, shared)
    return model


def compiled_from(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` made a model from, or the model itself."""
    inner = getattr(model, "_modules", {}).get("_orig_mod")
    return model if inner is None else inner


def plan_compression(model: nn.Module, budget: Budget, config: Config | None = None, **options: Any) -> Plan:
    """Plan what :func:`compress` would do with the same arguments, and change nothing.

    Raises:
        BudgetError, ConfigError, ModelError: as :func:`compress`.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model is a torch.nn.Module, not {model!r}; build it first, by timm.create_model(...), say")
    config = Config.chosen(config, options)
    check_compressible(model)
    return make_plan(model, budget, config)


def check_compressible(model: nn.Module) -> None:
    """Raise if the layers of a model cannot read generated weights.

    Raises:
        ModelError: for scripted modules, those that are compressed already, and those with masked filters.
    """
    for path, module in model.named_modules():
        check_attachable(module, path)
        if is_masked(module):
            raise ModelError(
                f"{path or 'the model'} ({type(module).__name__}) has masked filters, which generated weights would "
                "bring back: remove them first, with shapeshift.prune.hrank(model, loader, rate) without mask=True"
            )


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


def find_roots(model: nn.Module) -> list[nn.Module]:
    """Return the roots of the compressed models in a module, which may wrap one (as DDP does) or hold several."""
    return [module for module in model.modules() if is_attached(module) and ATTRIBUTE in module._modules]


def find_root(model: nn.Module) -> nn.Module | None:
    """Return the root of the one compressed model in a module; None without one.

    Raises:
        ModelError: if there are several.
    """
    roots = find_roots(model)
    if len(roots) > 1:
        paths = [path for path, module in model.named_modules() if any(module is root for root in roots)]
        raise ModelError(
            f"{type(model).__name__} holds {len(roots)} compressed models: {', '.join(paths)}; take them one by one"
        )
    return roots[0] if roots else None


def require_root(model: nn.Module) -> nn.Module:
    """Return the root of the one compressed model in a module.

    Raises:
        ModelError: if there is none, or several.
    """
    root = find_root(model)
    if root is None and is_compressed(model):
        raise ModelError(
            f"{type(model).__name__} is a part of a compressed model, without the parameters that its weights are "
            "generated from: take the whole model, or a member of a family out of it by family.extract(index)"
        )
    if root is None:
        raise ModelError(f"{type(model).__name__} is not compressed; call shapeshift.compress(model, budget) first")
    return root


def shared_parameters(model: nn.Module) -> SharedParameters:
    """Return the owner of a compressed model's shared parameters.

    Raises:
        ModelError: if the model is not compressed, or holds several that are.
    """
    shared: SharedParameters = getattr(require_root(model), ATTRIBUTE)
    return shared


def is_compressed(model: nn.Module) -> bool:
    """Tell whether a model is compressed, holds one that is, or is a part of one."""
    return any(map(is_attached, model.modules()))


@torch.inference_mode(mode=False)
def materialize(model: ModelT) -> ModelT:
    """Write the generated weights back into plain layers: an ordinary model, of the original classes and keys.

    Args:
        model: a compressed model, or a module that holds one or several; it is changed in place.

    Returns:
        The same model, with equal outputs. Weights that were generated are contiguous; set another memory format again
        by ``model.to(memory_format=...)``.

    Raises:
        ModelError: if nothing in the model is compressed, its shared parameters are sharded over processes, or a layer
            was parametrized since it was compressed. The model is then unchanged.
    """
    roots = find_roots(model) or [require_root(model)]
    if any(map(is_sharded, model.parameters())):
        raise ModelError(
            f"the parameters of {type(model).__name__} are sharded over processes: shapeshift.save the model, "
            "shapeshift.load it into a freshly built one, and materialize that"
        )
    write_weights(model)
    for root in roots:
        del root._modules[ATTRIBUTE]
    return model


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
    weights: dict[tuple[ParameterGroup[Any], int], nn.Parameter] = {}
    for group, index in (source for found in attached for source in sources(found).values()):
        if (group, index) not in weights:
            trainable = any(parameter.requires_grad for parameter in group.parameters())
            with torch.no_grad():
                generated = group.generate([index])[0].detach().clone(memory_format=torch.contiguous_format)
            weights[group, index] = nn.Parameter(generated, requires_grad=trainable)
    for found in attached:
        detach(found, {name: weights[source] for name, source in sources(found).items()})
    return module
