"""Whether the weights of a compressed model are kept or recomputed in training."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from shapeshift.surgery.roots import require_shared

ModelT = TypeVar("ModelT", bound=nn.Module)


def set_recompute(model: ModelT, enabled: bool = True) -> ModelT:
    """Choose whether the generated weights of a model live only while their layers run.

    Args:
        model: A compressed model. It is changed in place, from the next forward pass on.
        enabled: True: a weight is generated when its layer reads it, and again when the backward pass needs it, so
            that no more than one or two are in memory at a time. False: weights live until the backward pass is over.
            Outputs and gradients are the same, bit by bit.

    Returns:
        The same model.

    Raises:
        ModelError: if the model is not compressed, or holds several compressed models.

    Example:
        >>> import torch, shapeshift
        >>> model = shapeshift.compress(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)), "25%")
        >>> shapeshift.set_recompute(model).shapeshift.recompute
        True
    """
    require_shared(model).recompute = enabled
    return model
