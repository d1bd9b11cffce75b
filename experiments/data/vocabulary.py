"""Words as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shapeshift.experiments.data.text import PADDING, UNKNOWN

Words = Sequence[str]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a network knows.

    Attributes:
        words: in the order of their numbers, which begin behind those of padding and of any other word.
    """

    words: tuple[str, ...]

    @classmethod
    def most_frequent(cls, texts: Iterable[Words], size: int) -> Vocabulary:
        """Take the most frequent words of some texts, so many that there are at most ``size`` different numbers."""
        counts = Counter(word for text in texts for word in text)
        # By name where two are equally frequent, so that the order of the texts does not matter.
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ordered[: max(0, size - UNKNOWN - 1)]))

    def __len__(self) -> int:
        return UNKNOWN + 1 + len(self.words)

    def encode(self, texts: Sequence[Words], length: int) -> Tensor:
        """Write texts as numbers, padded on the right.

        Args:
            texts: the words of each.
            length: words of each text that are kept.

        Returns:
            Integers of shape (N, length).
        """
        numbers = {word: UNKNOWN + 1 + index for index, word in enumerate(self.words)}
        tokens = torch.full((len(texts), length), PADDING)
        for row, text in enumerate(texts):
            found = [numbers.get(word, UNKNOWN) for word in text[:length]]
            tokens[row, : len(found)] = torch.tensor(found, dtype=tokens.dtype)
        return tokens
