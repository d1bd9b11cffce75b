"""Vocabularies of whole words: which words a network knows, and the token of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING, UNKNOWN = range(2)  # tokens that stand for no word of the vocabulary

Words = Sequence[str]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a network knows, each with a token: an index into the network's word embedding.

    Token 0 is padding, and token 1 stands for every unknown word. The words of the vocabulary follow.

    Attributes:
        words: The known words, in the order of their tokens.

    Example:
        >>> from shapeshift.experiments.data.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary.most_frequent([["a", "red", "A"], ["a", "blue", "B"]], size=3)
        >>> vocabulary.words
        ('a',)
        >>> vocabulary.encode([["a", "green"]], length=4).tolist()
        [[2, 1, 0, 0]]
    """

    words: tuple[str, ...]

    @classmethod
    def most_frequent(cls, texts: Iterable[Words], size: int) -> Vocabulary:
        """Take the most frequent words of some texts.

        Args:
            texts: The words of each text.
            size: The largest number of tokens, including the two for padding and unknown words.

        Returns:
            The vocabulary. Words that are equally frequent are in alphabetical order.
        """
        counts = Counter(word for text in texts for word in text)
        # The order of the texts must not matter.
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ordered[: max(0, size - UNKNOWN - 1)]))

    def __len__(self) -> int:
        return UNKNOWN + 1 + len(self.words)

    def encode(self, texts: Sequence[Words], length: int) -> Tensor:
        """Turn texts into tokens, with padding on the right.

        Args:
            texts: The words of each of N texts.
            length: The number of tokens of a text. The rest of a longer text is dropped.

        Returns:
            Integers of shape (N, length).
        """
        known = {word: UNKNOWN + 1 + index for index, word in enumerate(self.words)}
        tokens = torch.full((len(texts), length), PADDING)
        for row, text in enumerate(texts):
            found = [known.get(word, UNKNOWN) for word in text[:length]]
            tokens[row, : len(found)] = torch.tensor(found, dtype=tokens.dtype)
        return tokens
