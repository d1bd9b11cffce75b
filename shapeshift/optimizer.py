"""Optimizer groups: what weight decay is meant for, and what it is not."""

from __future__ import annotations

from typing import Any

from torch import nn

from shapeshift.errors import ModelError
from shapeshift.surgery.roots import find_roots, require_shared


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's trainable parameters for an optimizer, by whether weight decay is meant for them.

    Decay pulls a weight towards zero. On coefficients it would weaken the templates that a weight is mixed from, and
    on biases and norms it does no good, so both are spared; stores and all other parameters are decayed.

    Args:
        model: a compressed model, a plain one, or a wrapper around either (by DDP, say).
        weight_decay: the decay of the first group.

    Returns:
        Two groups, each tensor in one of them once, those with ``weight_decay`` and those without, which are the
        coefficients and all parameters of at most one dimension. Frozen parameters are in neither.

    Raises:
        ModelError: if nothing in the model is trainable.
    """
    groups = [group for root in find_roots(model) for group in require_shared(root).generators()]
    spared = {id(parameter) for group in groups for parameter in group.coefficient_parameters()}
    with_decay: list[nn.Parameter] = []
    without_decay: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_spared = parameter.dim() <= 1 or id(parameter) in spared
            (without_decay if is_spared else with_decay).append(parameter)
    if not with_decay and not without_decay:
        raise ModelError(f"{type(model).__name__} has no trainable parameter: nothing is left for an optimizer")
    return [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
