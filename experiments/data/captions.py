"""Images with sentences about them and phrases about their parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.base import standardise_pixels
from shapeshift.experiments.data.vocabulary import Vocabulary, Words
from shapeshift.names import Registry

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Described:
    """A set of images as a person would describe them.

    Attributes:
        images: of shape (N, channels, height, width), of any numeric type.
        sentences: the index of an image, and the words of a sentence about it.
        phrases: the index of an image, the words of a phrase about a part of it, and the part's left, top, right and
            bottom edge in pixels.
    """

    images: Tensor
    sentences: Sequence[tuple[int, Words]]
    phrases: Sequence[tuple[int, Words, Box]]


@dataclass(frozen=True)
class Sentences:
    """Texts about images.

    Attributes:
        tokens: words as numbers, of shape (S, length), with padding on the right.
        images: the index of the image that each is about, of shape (S,).
    """

    tokens: Tensor
    images: Tensor


@dataclass(frozen=True)
class Phrases(Sentences):
    """Texts about parts of images.

    Attributes:
        boxes: left, top, right and bottom edge in pixels of the part that each is about, of shape (S, 4).
    """

    boxes: Tensor


@dataclass(frozen=True)
class CaptionedImages:
    """A set of images with texts, as networks read it.

    Attributes:
        images: of shape (N, channels, height, width).
        sentences: about whole images.
        phrases: about parts of images; there may be none.
        vocabulary: what the texts' numbers stand for.

    Raises:
        DataError: if there is no image, one has no sentence, a text is empty or about an image that is not there, or a
            box is empty or not inside of its image.
    """

    images: Tensor
    sentences: Sentences
    phrases: Phrases
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or not len(self.images):
            raise DataError(f"images of shape {tuple(self.images.shape)}: give (N, channels, height, width), N > 0")
        for kind, texts in (("sentence", self.sentences), ("phrase", self.phrases)):
            for name, wrong in (
                ("has no words", ~texts.tokens.any(1)),
                (f"is about none of {len(self.images)} images", (texts.images < 0) | (texts.images >= len(self))),
            ):
                if wrong.any():
                    raise DataError(f"{kind} {wrong.nonzero()[0].item()} {name}")
        silent = self.sentences.images.bincount(minlength=len(self)) == 0
        if silent.any():
            raise DataError(f"image {silent.nonzero()[0].item()} has no sentence: give each at least one")
        height, width = self.images.shape[2:]
        left, top, right, bottom = self.phrases.boxes.unbind(1)
        wrong = ~((left >= 0) & (left < right) & (right <= width) & (top >= 0) & (top < bottom) & (bottom <= height))
        if wrong.any():
            first = int(wrong.nonzero()[0].item())
            raise DataError(
                f"phrase {first} has the box {self.phrases.boxes[first].tolist()} in an image of {width} x {height} "
                "pixels: give left < right and top < bottom, inside of the image"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.images.shape[1]


# A loader takes ``data_dir: Path | None = None``, the folder that the files are kept in, and then options of its own.
# It returns the training set and the test set, the images standardised.
CaptionLoader = Callable[..., tuple[CaptionedImages, CaptionedImages]]
CAPTIONED: Registry[CaptionLoader] = Registry("data set of captioned images")


def encode(
    training: Described, test: Described, vocabulary: int, length: int
) -> tuple[CaptionedImages, CaptionedImages]:
    """Standardise images and write their texts as numbers.

    Args:
        training: the training set, whose most frequent words are the vocabulary and whose pixels set the scale.
        test: the test set.
        vocabulary: different numbers at most, two of which are no words.
        length: words at most that are kept of a text.

    Raises:
        ConfigError: if the vocabulary or a text has no room for a word.
        DataError: if the sets are not what :class:`CaptionedImages` has to be.
    """
    if vocabulary < 3 or length < 1:
        raise ConfigError(f"texts with vocabulary={vocabulary}, length={length}: give at least 3 and 1")
    texts = [words for _, words in training.sentences] + [words for _, words, _ in training.phrases]
    known = Vocabulary.most_frequent(texts, vocabulary)
    length = min(length, max(map(len, texts), default=1))
    images = standardise_pixels(training.images, test.images)
    sets = [_encode(part, scaled, known, length) for part, scaled in zip((training, test), images, strict=True)]
    return sets[0], sets[1]


def _encode(part: Described, images: Tensor, vocabulary: Vocabulary, length: int) -> CaptionedImages:
    sentences = Sentences(
        vocabulary.encode([words for _, words in part.sentences], length),
        torch.tensor([index for index, _ in part.sentences], dtype=torch.long),
    )
    phrases = Phrases(
        vocabulary.encode([words for _, words, _ in part.phrases], length),
        torch.tensor([index for index, _, _ in part.phrases], dtype=torch.long),
        torch.tensor([box for _, _, box in part.phrases], dtype=torch.float32).view(-1, 4),
    )
    return CaptionedImages(images, sentences, phrases, vocabulary)
