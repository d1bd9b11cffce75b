"""Example inputs, made up from the first layer of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import ModelError

_IMAGE_SIZE = 64  # pixels per side: five halvings leave 2 x 2
_LENGTH = 16  # tokens, or samples of a signal


def example_input(model: nn.Module) -> Tensor:
    """Make up a batch of two inputs for the model's first layer: images, signals, token ids or vectors.

    The size of images is the ``img_size`` of a part of the model, or the ``image_size`` of its configuration, or else
    64 x 64 pixels.

    Raises:
        ModelError: If the model has no layer from which an input can be made up.
    """
    parameter = next(model.parameters(), torch.empty(0))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            length = min(_LENGTH, getattr(getattr(model, "config", None), "max_position_embeddings", _LENGTH))
            return torch.arange(2 * length, device=parameter.device).view(2, -1) % module.num_embeddings
        if isinstance(module, nn.modules.conv._ConvNd):
            size = _image_size(model) if isinstance(module, nn.Conv2d) else [_LENGTH] * len(module.kernel_size)
            return _noise(parameter, module.in_channels, *size)
        if isinstance(module, nn.Linear):
            return _noise(parameter, module.in_features)
    raise ModelError(f"{type(model).__name__} has no layer that an input can be made up for; give a batch as example=")


def _image_size(model: nn.Module) -> list[int]:
    sizes = [getattr(module, "img_size", None) for module in model.modules()]
    sizes.append(getattr(getattr(model, "config", None), "image_size", None))
    size = next((size for size in sizes if size), _IMAGE_SIZE)
    return [size, size] if isinstance(size, int) else list(size)


def _noise(like: Tensor, *shape: int) -> Tensor:
    values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return values.to(like.device, like.dtype)
