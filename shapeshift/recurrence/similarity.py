"""How much the layers of a group share: the similarity of their coefficients, and a regulariser that raises it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.errors import ModelError
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.surgery.roots import require_shared


def layer_similarity(coefficients: Tensor) -> Tensor:
    r"""Compute the layer similarity matrix :math:`S_{ij} = |\cos(\alpha_i, \alpha_j)|`.

    Savarese and Maire, ICLR 2019.

    Args:
        coefficients: one row per layer, of shape (L, K).

    Returns:
        The matrix, of shape (L, L), from 0 for layers that share nothing to 1 for those that differ by a factor only.
    """
    # In the coefficients' own precision: half of it cannot tell what is nearly equal.
    with torch.autocast(coefficients.device.type, enabled=False):
        directions = F.normalize(coefficients, dim=1)
        return (directions @ directions.T).abs()


def similarity(model: nn.Module) -> dict[str, Tensor]:
    """Compute the similarity matrix of each group of layers that mix the same templates.

    Args:
        model: a model after :func:`soft_share`, or one compressed so that the layers of a group share their templates.

    Returns:
        From the group's name to a matrix of shape (L, L), in the order of ``model.shapeshift[name].weights``.

    Raises:
        ModelError: if the model is not compressed, or has no such group.
    """
    with torch.no_grad():
        return {name: layer_similarity(rows) for name, rows in coefficient_rows(model).items()}


def regulariser(model: nn.Module, weight: float) -> Tensor:
    r"""Compute a loss that pushes the similarity matrices towards sharing, to be added to any other.

    It is the mean of :math:`1 - S_{ij}` over all pairs of layers of a group, and over groups. With a loss of this kind,
    Savarese and Maire (ICLR 2019) let loops form faster and more clearly in their synthetic tasks.

    Args:
        model: as for :func:`similarity`.
        weight: what the mean over groups is multiplied with.

    Returns:
        A scalar between 0 and ``weight``, differentiable in the coefficients.

    Raises:
        ModelError: as :func:`similarity`.
    """
    losses = []
    for rows in coefficient_rows(model).values():
        above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
        losses.append(1 - layer_similarity(rows)[above[0], above[1]].mean())
    return weight * torch.stack([loss.to(losses[0]) for loss in losses]).mean()


def coefficient_rows(model: nn.Module) -> dict[str, Tensor]:
    """Return what the templates of each comparable group are multiplied with, differentiably, of shape (L, K).

    Raises:
        ModelError: if the model is not compressed, or has no group whose layers mix the same templates.
    """
    found = {}
    for name, group in require_shared(model).items():
        if isinstance(group, TemplateGenerator) and _is_comparable(group):
            # In float32 at least: angles between rows of 8 bits would be as coarse as they.
            scales = group.scales().to(torch.promote_types(group.gains.dtype, torch.float32))
            found[name] = torch.stack([scales[combination.row] for combination in group.layout.combinations])
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no group of layers that mix the same templates, so there is nothing to "
            "compare. shapeshift.recurrence.soft_share(model, templates) makes such groups"
        )
    return found


def _is_comparable(group: TemplateGenerator) -> bool:
    """Tell whether the weights of a group differ in their coefficients only."""
    templates = {combination.templates for combination in group.layout.combinations}
    plain = not group.zero_positions and not group.upsamplers
    return plain and len(templates) == 1 and len(group.weights) > 1
