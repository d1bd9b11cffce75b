"""What a training run logs of a compressed model."""

from __future__ import annotations

import statistics
from typing import Any, cast

import torch
from torch import Tensor, nn

from shapeshift.errors import ModelError
from shapeshift.recurrence.similarity import similarity
from shapeshift.running.modes import is_sharded
from shapeshift.surgery.roots import require_shared

PREFIX = "shapeshift"


def metrics(model: nn.Module) -> dict[str, float]:
    """Return scalars that tell how the shared parameters of a model train, for any logger.

    Args:
        model: A compressed model, or a wrapper around one. Between ``backward()`` and the optimizer's step it has
            gradients. If FSDP2 has sharded it, all processes have to call this.

    Returns:
        Values by name. ``shapeshift/budget_used`` is the share of the budget that is used.
        ``shapeshift/store_norm/GROUP`` and ``shapeshift/gradient_norm/GROUP`` are the Euclidean norms of a group's
        parameters and of their gradients, where it has any. ``shapeshift/similarity/GROUP`` is the mean similarity of
        its layers, where they mix the same templates. ``shapeshift/fit_error/median`` and ``shapeshift/fit_error/max``
        are those of a fit.

    Raises:
        ModelError: if the model is not compressed.

    Example:
        >>> import torch, shapeshift
        >>> model = shapeshift.compress(torch.nn.Linear(64, 64), "50%")
        >>> model(torch.randn(2, 64)).sum().backward()
        >>> sorted(shapeshift.metrics(model))
        ['shapeshift/budget_used', 'shapeshift/gradient_norm/all', 'shapeshift/store_norm/all']
    """
    shared = require_shared(model)
    plan = shared.plan
    used = plan.total / plan.budget if plan.budget_bytes is None else plan.checkpoint_bytes / plan.budget_bytes
    found = {f"{PREFIX}/budget_used": used}
    for name, group in shared.items():
        parameters = list(group.parameters())
        found[f"{PREFIX}/store_norm/{name}"] = _norm(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            found[f"{PREFIX}/gradient_norm/{name}"] = _norm(gradients)
    found |= {f"{PREFIX}/similarity/{name}": _mean_pair(matrix) for name, matrix in _similarity(model).items()}
    errors = shared.fit_errors.values()
    if errors:
        found |= {f"{PREFIX}/fit_error/median": statistics.median(errors), f"{PREFIX}/fit_error/max": max(errors)}
    return found


@torch.no_grad()
def _norm(tensors: list[Any]) -> float:
    norms = [torch.linalg.vector_norm(tensor.detach().float()) for tensor in tensors]
    whole = [cast(Any, norm).full_tensor() if is_sharded(norm) else norm for norm in norms]
    return float(torch.linalg.vector_norm(torch.stack([norm.cpu() for norm in whole])))


def _similarity(model: nn.Module) -> dict[str, Tensor]:
    try:
        return similarity(model)
    except ModelError:  # no group whose layers mix the same templates
        return {}


def _mean_pair(matrix: Tensor) -> float:
    """Return the mean of the entries above the diagonal."""
    above = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix.cpu()[above[0], above[1]].mean().item()
