"""Optimizer groups: the parameters with weight decay, and those without."""

from __future__ import annotations

from typing import Any

from torch import nn

from shapeshift.errors import ModelError
from shapeshift.surgery.roots import find_roots, require_shared


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into optimizer groups with and without weight decay.

    Stores and weights are decayed. Coefficients are not: their decay would also shrink the templates that they
    multiply. Nor are biases and norms.

    Args:
        model: A compressed model, a plain one, or a wrapper around either (such as DDP).
        weight_decay: The weight decay of the first group.

    Returns:
        Two groups. The second one, without decay, holds the coefficients and all parameters with at most one
        dimension; the first one holds the others. Each tensor occurs once, and frozen parameters do not occur.

    Raises:
        ModelError: If nothing in the model is trainable.

    Example:
        >>> import shapeshift, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
        >>> model = shapeshift.compress(model, "120%")
        >>> groups = shapeshift.parameter_groups(model, weight_decay=5e-4)
        >>> [len(group["params"]) for group in groups]  # the store; the coefficients and two biases
        [1, 3]
        >>> optimizer = torch.optim.SGD(groups, lr=0.1)
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
