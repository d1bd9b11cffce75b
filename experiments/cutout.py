"""Cutout: hide a square of each training image."""

from __future__ import annotations

import torch
from torch import Tensor


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
