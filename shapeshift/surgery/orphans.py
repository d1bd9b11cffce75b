"""Copies of layers that were made without the shared parameters they read."""

from __future__ import annotations

import warnings
from types import FrameType
from typing import TYPE_CHECKING

import torch

from shapeshift.errors import ModelError, ShapeshiftWarning

if TYPE_CHECKING:
    from shapeshift.surgery.forward_pass import WeightSource


def is_orphan(source: WeightSource) -> bool:
    """Tell whether the shared parameters of a source are in no model."""
    return source.owner is None or source.owner() is None


def check_unfreezing(source: WeightSource, index: int, lister: FrameType | None) -> None:
    """Raise if the parameters of a copied layer are listed to be trained, and do not generate its weight.

    PEFT copies a frozen layer, and then lists the copy's parameters to let them require a gradient.

    Args:
        source: The source of the weight, which also generates weights of other layers.
        index: The weight's index there.
        lister: The code that lists the parameters.

    Raises:
        ModelError: if so.
    """
    if is_orphan(source) and lister is not None and lister.f_locals.get("requires_grad") is True:
        weight = source.weights[index]
        raise ModelError(
            f"{weight.name} {weight.shape} is read by a copy of its layer, which is to be trained. The shared "
            "parameters that generate the weight serve other layers too, and are not among those of the copy. Keep "
            "the layer out with exclude= when you compress the model (for PEFT's modules_to_save, say), or call "
            "shapeshift.materialize(copy) on the copy, which makes it plain"
        )


def warn_without_owner(source: WeightSource, index: int) -> None:
    """Warn, once for each copy, if a weight whose shared parameters are in no model is read with a gradient."""
    if not is_orphan(source) or "orphan" in source.told or not torch.is_grad_enabled():
        return
    if not any(parameter.requires_grad for parameter in source.generator.parameters()):
        return
    source.told.add("orphan")
    weight = source.weights[index]
    warnings.warn(
        f"{weight.name} {weight.shape} is read by a layer that is a copy of one, or that outlived its model: the "
        "shared parameters that it is generated from are in no model, so no optimizer trains them and no state dict "
        "holds them. Copy the whole model, or call shapeshift.materialize(copy) on the copy, which makes it plain",
        ShapeshiftWarning,
        stacklevel=4,
    )
