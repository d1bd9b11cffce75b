"""Compressing a model in place, and making it a plain model again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from shapeshift.budget import Budget
from shapeshift.byte_budget import plan_for
from shapeshift.config import Config
from shapeshift.errors import ConfigError, ModelError
from shapeshift.fitting import fit_to_model
from shapeshift.plan import Plan
from shapeshift.prune.masks import is_masked
from shapeshift.running.modes import is_sharded
from shapeshift.running.remaking import Remaking
from shapeshift.running.wrappers import compiled_from
from shapeshift.structure import check_starts
from shapeshift.surgery.install import check_installable, install, write_weights
from shapeshift.surgery.layers import check_attachable
from shapeshift.surgery.roots import find_roots, is_copied_part, require_root
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

ModelT = TypeVar("ModelT", bound=nn.Module)


@torch.inference_mode(mode=False)  # inference tensors could never be trained
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
        model: Any module. It is changed in place, and its forward and backward work as before. On the meta device
            nothing is allocated; call ``model.to_empty(...)`` and ``model.shapeshift.reset_parameters()`` afterwards.
        budget: The most trainable parameters that the model may have, each tensor counted once: an int, a fraction
            of the model's own count as a float, or a string such as "300k", "25%" or "4x". At least 99% of it is used,
            except for very small budgets and for ``combine="softmax"`` and ``upsample="inter"``, whose stores grow in
            steps. A string with a unit of bytes, such as "500kB", "16MB" or "1MiB", limits the size of all files that
            :func:`save` writes instead; at least 98% of it is used.
        config: How weights share; None for the defaults.
        calibration: Batches ``x``, ``(x, y)`` or dicts of the model's arguments, read once. A fit (``init="fit"``)
            then minimises the error of each layer's outputs on this data; without it, that of the weights.
        progress: Whether a fit shows a progress bar.
        **options: Fields of :class:`Config` to set on top of ``config``, such as ``exclude=["head"]``.

    Returns:
        The same model.

    Warns:
        ShapeshiftWarning: if ``init`` is ``"random"`` and weights start with a structure that noise lacks: orthogonal,
            sparse (identity and delta among them) or linearly dependent.

    Raises:
        BudgetError: if the budget cannot be read, or lies outside of what the config allows; it names the bound.
        ConfigError: if an option is unknown, a pattern matches nothing, or there is nothing to calibrate.
        DataError: if the calibration data is empty, or holds no inputs of the model.
        ModelError: if the model has nothing to generate, cannot read generated weights, holds a weight in an attribute
            or a list without registering it, or has no values to fit; or if it has an adapter whose starting values are
            no noise, and ``init`` is ``"random"``. The model is unchanged after any error.
        MissingExtraError: if the progress bar is asked for and tqdm is not installed.

    Example:
        >>> import torch, shapeshift
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
        >>> shapeshift.count_parameters(model)
        8320
        >>> model = shapeshift.compress(model, "25%")
        >>> shapeshift.count_parameters(model)
        2080
        >>> model[0].weight.shape
        torch.Size([64, 64])
    """
    inner = compiled_from(model)
    plan = plan_compression(inner, budget, config, **options)
    if plan.config.init != "fit" and (calibration is not None or progress):
        given = "calibration" if calibration is not None else "progress"
        raise ConfigError(f'{given} is for a fit: add init="fit", or leave it out')
    if plan.config.init != "fit":
        check_starts(inner, plan.weights)
    shared = SharedParameters(plan)
    shared.reset_parameters()
    if plan.config.init == "fit":
        fit_to_model(shared, inner, calibration, progress)
    install(inner, shared)
    return model


@torch.inference_mode(mode=False)
def build(
    factory: Callable[[], ModelT],
    budget: Budget,
    config: Config | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> ModelT:
    """Build a model and compress it, without memory for all the weights that it has before.

    The result is that of ``compress(factory(), budget, ...)``, to the last bit. Large tensors are dropped where memory
    is short, and made again where their values are read. So everything that is not generated has the values that the
    architecture's own initialisation gives, and every generated weight starts with the deviation that it gives. The
    memory that is needed is that of the shared parameters, and a few times that of the largest weight. The time is a
    few times that of building the model.

    Args:
        factory: A function without arguments that builds the model on the CPU, in the thread that calls it, and returns
            it. What it draws from random number generators of torch, fills with constants or computes from these can
            be dropped. Tensors that it reads from files or makes of numpy arrays stay in memory.
        budget: As in :func:`compress`.
        config: As in :func:`compress`.
        calibration: As in :func:`compress`.
        progress: As in :func:`compress`.
        **options: As in :func:`compress`.

    Returns:
        The compressed model, on the CPU.

    Raises:
        ConfigError: if the factory cannot be called; otherwise as :func:`compress`.
        ModelError: if the factory builds on the meta device, which keeps no values; otherwise as :func:`compress`.
        BudgetError, DataError, MissingExtraError: as :func:`compress`.

    Example:
        >>> import torch, shapeshift
        >>> def network():
        ...     return torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.LayerNorm(1024))
        >>> model = shapeshift.build(network, "5%")
        >>> shapeshift.count_parameters(model) <= 0.05 * shapeshift.count_parameters(network())
        True
        >>> model[1].weight.unique()
        tensor([1.], grad_fn=<Unique2Backward0>)
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ConfigError(
            f"a factory is a function that builds the model, such as lambda: timm.create_model(...), and not "
            f"{type(factory).__name__}; a model that is built already is for shapeshift.compress(model, ...)"
        )
    with Remaking() as remaking:
        with remaking.recording():
            model = factory()
        _check_has_values(model)
        return compress(model, budget, config, calibration=calibration, progress=progress, **options)


def plan_compression(model: nn.Module, budget: Budget, config: Config | None = None, **options: Any) -> Plan:
    """Plan what :func:`compress` would do with the same arguments, and change nothing.

    Args:
        model: Any module, also one on the meta device.
        budget: As in :func:`compress`.
        config: As in :func:`compress`.
        **options: As in :func:`compress`.

    Returns:
        The plan. :func:`report` and :func:`plot_mapping` show it.

    Raises:
        BudgetError, ConfigError, ModelError: as :func:`compress`.

    Example:
        >>> import torch, shapeshift
        >>> with torch.device("meta"):
        ...     model = torch.nn.Sequential(torch.nn.Linear(4096, 4096), torch.nn.Linear(4096, 4096))
        >>> plan = shapeshift.plan_compression(model, "10%")
        >>> plan.total <= plan.budget, plan.dense
        (True, 33562624)
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model is a torch.nn.Module, not {model!r}; build it first, by timm.create_model(...), say")
    config = Config.chosen(config, options)
    check_compressible(model)
    plan = plan_for(model, budget, config, SharedParameters.reserved_names())
    check_installable(model, plan)
    return plan


def _check_has_values(model: nn.Module) -> None:
    if isinstance(model, nn.Module):
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            if tensor.is_meta:
                raise ModelError(
                    f"{name} {tuple(tensor.shape)} is on the meta device, where nothing has values: let the factory "
                    "build on the CPU; shapeshift.build frees the memory of the weights by itself"
                )


def check_compressible(model: nn.Module) -> None:
    """Raise if a model cannot be compressed, whatever the plan.

    Raises:
        ModelError: for scripted modules, those that are compressed already, and those with masked filters.
    """
    check_attachable(model)
    for path, module in model.named_modules():
        if is_masked(module):
            raise ModelError(
                f"{path or 'the model'} ({type(module).__name__}) has masked filters, which generated weights would "
                "bring back: remove them first, with shapeshift.prune.hrank(model, loader, rate) without mask=True"
            )


@torch.inference_mode(mode=False)
def materialize(model: ModelT) -> ModelT:
    """Write the generated weights back into plain layers: an ordinary model, of the original classes and keys.

    Args:
        model: A compressed model, a module that holds one or several, or a copy of a part of one. It is changed in
            place.

    Returns:
        The same model, with equal outputs. Weights that were generated have the memory format, the class and the
        attributes that they had when the model was compressed; if ``model.to(memory_format=...)`` was called since,
        call it again. A bound ``forward`` that a wrapper took from the compressed model still works.

    Raises:
        ModelError: if nothing in the model is compressed, its shared parameters are sharded over processes, or a layer
            was parametrized since it was compressed. The model is then unchanged.

    Example:
        >>> import torch, shapeshift
        >>> model = shapeshift.compress(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)), "25%")
        >>> list(model.state_dict())
        ['shapeshift.all.gains', 'shapeshift.all.store.0', '0.bias', '1.bias']
        >>> list(shapeshift.materialize(model).state_dict())
        ['0.weight', '0.bias', '1.weight', '1.bias']
    """
    roots = find_roots(model)
    if not roots and not is_copied_part(model):
        require_root(model)
    if any(map(is_sharded, model.parameters())):
        raise ModelError(
            f"the parameters of {type(model).__name__} are sharded over processes: shapeshift.save the model, "
            "shapeshift.load it into a freshly built one, and materialize that"
        )
    write_weights(model)
    for root in roots:
        del root._modules[ATTRIBUTE]
    return model
