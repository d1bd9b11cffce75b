"""Removal of the channels of least magnitude, a baseline on trained networks."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

import shapeshift

_STEPS = 12  # Steps of the bisection for the share to remove.


def prune_by_magnitude(model: nn.Module, inputs: Tensor, budget: int) -> nn.Module:
    """Remove the same share of channels everywhere, those of least L1 norm, until a model is within a budget.

    Args:
        model: A trained classifier, which stays as it is. Attention keeps its number of heads, which become narrower.
        inputs: A batch of two examples.
        budget: The largest number of parameters that the copy may have.

    Returns:
        A smaller copy.
    """
    low, high = 0.0, 1.0
    found = _pruned(model, inputs, high)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        candidate = _pruned(model, inputs, middle)
        if shapeshift.count_parameters(candidate) <= budget:
            found, high = candidate, middle
        else:
            low = middle
    return found


def _pruned(model: nn.Module, inputs: Tensor, rate: float) -> nn.Module:
    model = copy.deepcopy(model)
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "num_attention_heads")]
    heads = {
        getattr(attention, name): attention.num_attention_heads
        for attention in attentions
        for name in ("query", "key", "value")
    }
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        inputs,
        torch_pruning.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=rate,
        num_heads=heads,
        ignored_layers=[last],
        root_module_types=[nn.Conv2d, nn.Linear, nn.LayerNorm, nn.Embedding],
    )
    pruner.step()
    for attention in attentions:
        # The scale of the scores stays: it belongs to the weights that are left.
        attention.all_head_size = attention.query.out_features
        attention.attention_head_size = attention.all_head_size // attention.num_attention_heads
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        model(inputs)  # fails here rather than in training if the remaining channels do not fit together
    return model
