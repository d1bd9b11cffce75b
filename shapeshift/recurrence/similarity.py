"""The similarity of layers that mix the same templates, and a regulariser that raises it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.errors import ModelError
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.surgery.roots import require_shared


def layer_similarity(coefficients: Tensor) -> Tensor:
    r"""Compute the layer similarity matrix :math:`S_{ij} = |\cos(\alpha_i, \alpha_j)|` (Savarese and Maire, ICLR 2019).

    Args:
        coefficients: The coefficients of L layers for K templates, of shape (L, K).

    Returns:
        The matrix, of shape (L, L). An entry is 0 if two layers share nothing, and 1 if they are equal up to a factor.

    Example:
        >>> import torch
        >>> from shapeshift.recurrence import layer_similarity
        >>> layer_similarity(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    # Autocast to half precision would round the differences between nearly equal layers away.
    with torch.autocast(coefficients.device.type, enabled=False):
        directions = F.normalize(coefficients, dim=1)
        return (directions @ directions.T).abs()


def similarity(model: nn.Module) -> dict[str, Tensor]:
    """Compute the similarity matrix of each group of layers that mix the same templates.

    Args:
        model: A model after :func:`soft_share`, or one compressed so that the layers of a group mix the same templates.

    Returns:
        The matrix of each group by the group's name, of shape (L, L) for L layers in the order of
        ``model.shapeshift[name].weights``.

    Raises:
        ModelError: If the model is not compressed, or has no such group.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import similarity, soft_share
        >>> model = soft_share(WideResNet(22, 0.5), templates=2)
        >>> {name: tuple(matrix.shape) for name, matrix in similarity(model).items()}
        {'stage1_8x8x3x3': (4, 4), 'stage2_16x16x3x3': (4, 4), 'stage3_32x32x3x3': (4, 4)}
    """
    with torch.no_grad():
        return {name: layer_similarity(rows) for name, rows in coefficient_rows(model).items()}


def regulariser(model: nn.Module, weight: float) -> Tensor:
    r"""Compute a loss that raises the similarity of layers, to be added to the loss of the model.

    It is the mean of :math:`1 - S_{ij}` over all pairs of layers of a group, and over groups. With a loss of this kind,
    loops form faster and more clearly in the synthetic tasks of Savarese and Maire (ICLR 2019).

    Args:
        model: A model that :func:`similarity` takes.
        weight: The factor on the mean.

    Returns:
        A scalar between 0 and ``weight``, differentiable in the coefficients.

    Raises:
        ModelError: If the model is not compressed, or has no group of layers that mix the same templates.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import regulariser, soft_share
        >>> loss = regulariser(soft_share(WideResNet(22, 0.5), templates=2), weight=0.3)
        >>> 0 <= loss.item() <= 0.3
        True
    """
    losses = []
    for rows in coefficient_rows(model).values():
        above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
        losses.append(1 - layer_similarity(rows)[above[0], above[1]].mean())
    return weight * torch.stack([loss.to(losses[0]) for loss in losses]).mean()


def coefficient_rows(model: nn.Module) -> dict[str, Tensor]:
    """Return the coefficients times the gains of each group whose layers mix the same templates, of shape (L, K).

    Raises:
        ModelError: If the model is not compressed, or has no such group.
    """
    found = {}
    for name, group in require_shared(model).items():
        if isinstance(group, TemplateGenerator) and _is_comparable(group):
            # Float32 at least: bfloat16 would make the angles between rows coarse.
            scales = group.scales().to(torch.promote_types(group.gains.dtype, torch.float32))
            found[name] = torch.stack([scales[combination.row] for combination in group.layout.combinations])
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no group of layers that mix the same templates, so there is nothing to "
            "compare. shapeshift.recurrence.soft_share(model, templates) makes such groups"
        )
    return found


def _is_comparable(group: TemplateGenerator) -> bool:
    """Return whether the weights of a group differ in their coefficients only."""
    templates = {combination.templates for combination in group.layout.combinations}
    plain = not group.zero_positions and not group.upsamplers
    return plain and len(templates) == 1 and len(group.weights) > 1
