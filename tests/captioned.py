"""Small sets of images with texts."""

from __future__ import annotations

import torch
from torch import Tensor

from shapeshift.experiments.data.captions import CaptionedImages, Phrases, Sentences
from shapeshift.experiments.data.vocabulary import Vocabulary


def coloured(count: int = 24, side: int = 16) -> CaptionedImages:
    """Make images of noise, each with two squares of a colour of its own and a word for each of them.

    The squares of image i are at the left and at the right. Its two sentences name both in either order, and its two
    phrases name one of them each.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator) / 10
    colours = 2 * torch.randn(2 * count, 3, 1, 1, generator=generator)
    half = side // 2
    images[:, :, 2 : half + 2, 1:half] += colours[:count]
    images[:, :, half - 2 : side - 2, half + 1 : side - 1] += colours[count:]
    numbers = torch.arange(count)
    left, right = 2 + numbers, 2 + count + numbers
    boxes = torch.tensor([[1, 2, half, half + 2], [half + 1, half - 2, side - 1, side - 2]]).float()
    return CaptionedImages(
        images,
        Sentences(torch.cat([torch.stack([left, right], 1), torch.stack([right, left], 1)]), numbers.repeat(2)),
        Phrases(padded(torch.cat([left, right])), numbers.repeat(2), boxes.repeat_interleave(count, dim=0)),
        Vocabulary(tuple(f"word{index}" for index in range(2 * count))),
    )


def padded(words: Tensor) -> Tensor:
    """Return texts of one word each with a padding behind it."""
    return torch.stack([words, torch.zeros_like(words)], 1)
