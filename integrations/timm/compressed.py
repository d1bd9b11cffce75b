"""Models of timm by name: plain models, and compressed models with the prefix ``shapeshift_``."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import timm
import torch
from timm.models import (
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    load_pretrained,
    model_entrypoint,
    register_model,
)
from torch import nn

from shapeshift.budget import Budget
from shapeshift.compression import compress, plan_compression
from shapeshift.config import Config
from shapeshift.errors import BudgetError
from shapeshift.surgery.install import install
from shapeshift.surgery.roots import require_shared
from shapeshift.surgery.shared_parameters import SharedParameters

PREFIX = "shapeshift_"

# timm's registry reads the pretrained weights of a module's models from this name.
default_cfgs: dict[str, Any] = {}


def model_names() -> list[str]:
    """Return the names of timm's models, without those of compressed models."""
    return [name for name in timm.list_models() if not name.startswith(PREFIX)]


def build(name: str) -> nn.Module:
    """Build a model of timm on the meta device, where its weights take no memory."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model


def build_compressed(name: str, pretrained: bool = False, *, budget: Budget | None = None, **options: Any) -> nn.Module:
    """Build a model of timm and compress it; ``timm.create_model("shapeshift_" + name, ...)`` calls this.

    Args:
        name: The name of the plain model.
        pretrained: Whether to start from trained weights. The shared parameters are then fitted to them, unless
            ``init="random"`` is given. Weights that were saved from a compressed model are loaded as they are.
        budget: The parameter budget, as in :func:`shapeshift.compress`. With ``features_only=True`` it is the budget of
            the feature extractor.
        **options: Fields of :class:`shapeshift.Config`. All other options go to timm.

    Returns:
        The compressed model.

    Raises:
        BudgetError: if the budget is missing, cannot be read, or cannot be met.
        ConfigError: as in :func:`shapeshift.compress`.
        ModelError: as in :func:`shapeshift.compress`.

    Example:
        >>> import shapeshift
        >>> from shapeshift.integrations.timm import build_compressed
        >>> model = build_compressed("test_resnet", budget="50%", num_classes=10)
        >>> shapeshift.is_compressed(model)
        True
    """
    if budget is None:
        raise BudgetError(
            f'{PREFIX}{name} needs a budget: timm.create_model("{PREFIX}{name}", budget="25%"), or after '
            f"--model {PREFIX}{name} in a script of timm, --model-kwargs budget=25%"
        )
    fields = {field.name for field in dataclasses.fields(Config)}
    chosen = {key: options.pop(key) for key in fields & set(options)}
    # A folder or a repository of the hub that timm wrote has the arguments of the saved model.
    compressed_weights = pretrained and "budget" in options.get("pretrained_model_args", {})
    if pretrained and not compressed_weights:
        chosen.setdefault("init", "fit")
    config = Config(**chosen)  # fails before weights are read
    model: nn.Module = model_entrypoint(name)(pretrained=pretrained and not compressed_weights, **options)
    if compressed_weights:
        shared = SharedParameters(plan_compression(model, budget, config))
        install(model, shared)
        load_pretrained(model, num_classes=getattr(model, "num_classes", 0), in_chans=options.get("in_chans", 3))
    else:
        compress(model, budget, config)
    # timm writes these beside the weights, so that it can build the compressed model again.
    described: Any = model
    described.pretrained_cfg = described.default_cfg = {**described.pretrained_cfg, "architecture": PREFIX + name}
    described._model_args = {"init": config.init}
    require_shared(model).is_built_in = True
    return model


def register_models() -> list[str]:
    """Register a compressed form of every model that timm knows, as ``shapeshift_<name>``.

    Importing ``shapeshift.integrations.timm`` calls this once. Call it again for models that are registered later.

    Returns:
        The new names.

    Example:
        >>> import timm
        >>> from shapeshift.integrations.timm import register_models
        >>> registered = register_models()
        >>> timm.is_model("shapeshift_resnet18")
        True
    """
    names = [name for name in model_names() if not timm.is_model(PREFIX + name)]
    default_cfgs.update(
        generate_default_cfgs(
            {PREFIX + tagged: cfg for name in names for tagged, cfg in get_arch_pretrained_cfgs(name).items()}
        )
    )
    for name in names:
        entry_point = partial(build_compressed, name)
        entry_point.__name__, entry_point.__module__ = PREFIX + name, __name__  # type: ignore[attr-defined]
        globals()[PREFIX + name] = register_model(entry_point)  # timm appends the name to __all__
    default_cfgs.clear()
    return [PREFIX + name for name in names]
