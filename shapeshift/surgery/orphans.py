"""Copies of layers that were made without the shared parameters they read."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from shapeshift.errors import ShapeshiftWarning

if TYPE_CHECKING:
    from shapeshift.surgery.forward_pass import WeightSource


def is_orphan(source: WeightSource) -> bool:
    """Tell whether the shared parameters of a source are in no model."""
    return source.owner is None or source.owner() is None


def warn_without_owner(source: WeightSource, index: int) -> None:
    """Warn, once for each copy, if a weight whose shared parameters are in no model is read with a gradient."""
    if not is_orphan(source) or source.warned or not torch.is_grad_enabled():
        return
    if not any(parameter.requires_grad for parameter in source.generator.parameters()):
        return
    source.warned = True
    weight = source.weights[index]
    warnings.warn(
        f"{weight.name} {weight.shape} is read by a layer that is a copy of one, or that outlived its model: the "
        "shared parameters that it is generated from are in no model, so no optimizer trains them and no state dict "
        "holds them. Copy the whole model, or call shapeshift.materialize(copy) on the copy, which makes it plain",
        ShapeshiftWarning,
        stacklevel=4,
    )
