"""Random changes of training images, each one operation on a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from shapeshift.errors import ConfigError


def crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to some pixels along both axes, and fill what becomes empty with its reflection.

    This is a random crop of the padded image: Zagoruyko and Komodakis, "Wide Residual Networks", 2016, section 3.

    Args:
        images: The images, of shape (N, channels, height, width).
        padding: The largest distance in pixels, less than the height and the width.
        generator: The random generator of the places, on the CPU.

    Returns:
        The moved images, of the same shape.

    Raises:
        ConfigError: if the images are too small for the padding.
    """
    count, _, *sizes = images.shape
    if padding >= min(sizes):
        raise ConfigError(
            f"crop={padding} for images of {sizes[0]} x {sizes[1]} pixels: give less than the shorter side"
        )
    rows, columns = (_reflected(count, size, padding, generator).to(images.device) for size in sizes)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    return images.movedim(1, -1)[image, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1).contiguous()


def _reflected(count: int, size: int, padding: int, generator: torch.Generator) -> Tensor:
    """Return the pixels of an axis that each image reads, of shape (count, size)."""
    start = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
    last = size - 1
    return last - (last - (start + torch.arange(size)).abs()).abs()


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image from left to right with a probability of one half.

    Args:
        images: The images, of shape (N, channels, height, width).
        generator: The random generator of the choices, on the CPU.

    Returns:
        The images, some of them mirrored.
    """
    mirrored = torch.randint(2, (len(images), 1, 1, 1), generator=generator, dtype=torch.bool).to(images.device)
    return torch.where(mirrored, images.flip(-1), images)


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a square around a random pixel of each image to zero. The square can extend beyond the image.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, section 3.

    Args:
        images: The images, of shape (N, channels, height, width), standardised so that zero is the mean.
        side: The side of the square in pixels.
        generator: The random generator of the places, on the CPU.

    Returns:
        A copy of the images, with the squares hidden.
    """
    count, _, *sizes = images.shape
    inside = torch.ones(1, dtype=torch.bool, device=images.device)
    for axis, size in enumerate(sizes):
        start = torch.randint(size, (count, 1), generator=generator).to(images.device) - side // 2
        place = torch.arange(size, device=images.device)
        hit = (place >= start) & (place < start + side)
        inside = inside & hit.view(count, 1, *(size if other == axis else 1 for other in range(len(sizes))))
    return images.masked_fill(inside, 0.0)
