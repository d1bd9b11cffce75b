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
    """Images with texts in words, before the words become tokens.

    Attributes:
        images: The images, of shape (N, channels, height, width) and any numeric type.
        sentences: For each sentence, the index of its image and its words.
        phrases: For each phrase, the index of its image, its words, and the left, top, right and bottom edge in pixels
            of the part of the image that it names.
    """

    images: Tensor
    sentences: Sequence[tuple[int, Words]]
    phrases: Sequence[tuple[int, Words, Box]]


@dataclass(frozen=True)
class Sentences:
    """Texts about images, in tokens.

    Attributes:
        tokens: The tokens of each text, of shape (S, length), with padding on the right.
        images: The index of each text's image, of shape (S,).

    Example:
        >>> import torch
        >>> from shapeshift.experiments.data.captions import Sentences
        >>> sentences = Sentences(tokens=torch.tensor([[2, 3, 0], [2, 4, 5]]), images=torch.tensor([0, 0]))
        >>> sentences.tokens.shape
        torch.Size([2, 3])
    """

    tokens: Tensor
    images: Tensor


@dataclass(frozen=True)
class Phrases(Sentences):
    """Texts about parts of images, in tokens.

    Attributes:
        tokens: The tokens of each text, of shape (S, length), with padding on the right.
        images: The index of each text's image, of shape (S,).
        boxes: The left, top, right and bottom edge in pixels of each text's part of the image, of shape (S, 4).

    Example:
        >>> import torch
        >>> from shapeshift.experiments.data.captions import Phrases
        >>> box = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
        >>> phrases = Phrases(tokens=torch.tensor([[3, 4]]), images=torch.tensor([0]), boxes=box)
        >>> phrases.boxes.shape
        torch.Size([1, 4])
    """

    boxes: Tensor


@dataclass(frozen=True)
class CaptionedImages:
    """A set of images with texts in tokens.

    Attributes:
        images: The images, of shape (N, channels, height, width).
        sentences: The sentences about whole images. Each image has at least one.
        phrases: The phrases about parts of images. There may be none.
        vocabulary: The words that the tokens stand for.

    Raises:
        DataError: if there is no image, an image has no sentence, a text is empty, a text is about an image that does
            not exist, or a box is empty or not inside its image.

    Example:
        >>> import torch
        >>> from shapeshift.experiments.data.captions import CaptionedImages, Phrases, Sentences
        >>> from shapeshift.experiments.data.vocabulary import Vocabulary
        >>> vocabulary, image, box = Vocabulary(("a", "red", "ball")), torch.tensor([0]), torch.tensor([[2.0, 2, 6, 6]])
        >>> sentences = Sentences(vocabulary.encode([["a", "red", "ball"]], length=3), image)
        >>> phrases = Phrases(vocabulary.encode([["red", "ball"]], length=3), image, box)
        >>> len(CaptionedImages(torch.randn(1, 3, 8, 8), sentences, phrases, vocabulary))
        1
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
        """The number of channels of each image."""
        return self.images.shape[1]


#: A loader takes ``data_dir: Path | None = None``, the folder of its files, and then its own options. It returns the
#: training set and the test set, with standardised images.
CaptionLoader = Callable[..., tuple[CaptionedImages, CaptionedImages]]

#: The data sets of captioned images, by name.
CAPTIONED: Registry[CaptionLoader] = Registry("data set of captioned images")


def encode(
    training: Described, test: Described, vocabulary: int, length: int
) -> tuple[CaptionedImages, CaptionedImages]:
    """Standardise images and turn their texts into tokens.

    Args:
        training: The training set. Its most frequent words are the vocabulary, and its pixels give the mean and the
            standard deviation.
        test: The test set.
        vocabulary: The largest number of different tokens. Two of them are no words.
        length: The largest number of tokens of a text. The rest of a longer text is dropped.

    Returns:
        The training set and the test set.

    Raises:
        ConfigError: if the vocabulary or a text has no room for a word.
        DataError: if a set is not a valid :class:`CaptionedImages`.
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
