"""Small sets of images with texts, and small networks for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shapeshift.experiments.data.captions import CaptionedImages, Phrases, Sentences
from shapeshift.experiments.data.vocabulary import Vocabulary
from shapeshift.networks.embedding_network import EmbeddingNetwork
from shapeshift.networks.similarity_network import SimilarityNetwork
from shapeshift.networks.text_encoder import TextEncoder
from shapeshift.networks.trunk import WideTrunk


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


def words_of(data: CaptionedImages, tokens: Tensor) -> str:
    """Write the numbers of a text as words again."""
    return " ".join(data.vocabulary.words[number - 2] for number in tokens.tolist() if number)


def without_phrases(data: CaptionedImages) -> CaptionedImages:
    """Return the same images without their phrases."""
    phrases = data.phrases
    return replace(
        data, phrases=replace(phrases, tokens=phrases.tokens[:0], images=phrases.images[:0], boxes=phrases.boxes[:0])
    )


def embedding_network(data: CaptionedImages) -> EmbeddingNetwork:
    return EmbeddingNetwork(*_trunk_and_text(data), 16, hidden=24, embedding=16)


def similarity_network(data: CaptionedImages) -> SimilarityNetwork:
    return SimilarityNetwork(*_trunk_and_text(data), 16, hidden=24, embedding=16)


def _trunk_and_text(data: CaptionedImages) -> tuple[WideTrunk, TextEncoder]:
    return WideTrunk(10, 0.25, data.channels, stem=4, stride=2), TextEncoder(len(data.vocabulary), 8, 16, "gru")
