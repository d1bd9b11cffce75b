"""Text that comes with Python: classify passages of its standard library by the module that they are from."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.vocabulary import PADDING, UNKNOWN, Vocabulary

# Each is a class. They are long modules, and a single file in every version of Python.
MODULES = (
    "argparse",
    "difflib",
    "inspect",
    "ipaddress",
    "mailbox",
    "statistics",
    "subprocess",
    "tarfile",
    "turtle",
    "typing",
)

START = UNKNOWN + 1  # the token that each passage starts with
_START_WORD = "[START]"  # its place in the vocabulary; no passage has such a word

_LINES = 4  # lines of a passage, not counting empty ones
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Passages:
    """A labelled set of passages.

    Attributes:
        tokens: The token :data:`START`, words and padding, of shape (N, length).
        labels: The module of each passage, an index into :data:`MODULES`, of shape (N,).
        vocabulary: The number of different tokens.
    """

    tokens: Tensor
    labels: Tensor
    vocabulary: int

    @property
    def inputs(self) -> Tensor:
        """The tokens."""
        return self.tokens

    @property
    def mask(self) -> Tensor:
        """1 for tokens and 0 for padding, of the shape of the tokens."""
        return (self.tokens != PADDING).long()


def passages(length: int = 48, vocabulary: int = 1000) -> tuple[Passages, Passages]:
    """Cut the source code of ten modules of the standard library into passages of four lines.

    A word is a run of letters, or any other character except spaces. The vocabulary holds the most frequent words of
    the training set. A fifth of each module's passages is the test set, the same passages in every run. The training
    set is shuffled, so that its first passages are a smaller training set. The text is that of the running Python.

    Args:
        length: The number of tokens of a passage. The rest of a longer passage is dropped.
        vocabulary: The number of different tokens. Three of them are no words.

    Returns:
        The training set and the test set.

    Raises:
        ConfigError: if a passage or the vocabulary has no room for a word.
        DataError: if this Python comes without the source code of its library.
    """
    if length < 2 or vocabulary < 4:
        raise ConfigError(f"passages with length={length}, vocabulary={vocabulary}: give at least 2 and 4")
    sets: tuple[list[tuple[list[str], int]], ...] = ([], [])
    for label, module in enumerate(MODULES):
        found = _cut(module)
        order = np.random.default_rng(label).permutation(len(found))
        for place, index in enumerate(order):
            sets[place < _TEST_SHARE * len(found)].append((found[index], label))
    test = sets[1]
    training = [sets[0][index] for index in np.random.default_rng(0).permutation(len(sets[0]))]
    counts = Counter(word for words, _ in training for word in words)
    known = Vocabulary((_START_WORD, *(word for word, _ in counts.most_common(vocabulary - START - 1))))
    return _encode(training, known, length, vocabulary), _encode(test, known, length, vocabulary)


def _cut(module: str) -> list[list[str]]:
    """Return the words of each passage of a module."""
    spec = importlib.util.find_spec(module)
    source = spec.loader.get_source(module) if spec and hasattr(spec.loader, "get_source") else None  # type: ignore[union-attr]
    if source is None:
        raise DataError(f"this Python comes without the source code of its module {module!r}; use another one")
    lines = [line for line in source.splitlines() if line.strip()]
    return [
        re.findall(r"[A-Za-z]+|[^\sA-Za-z]", "\n".join(lines[start : start + _LINES]))
        for start in range(0, len(lines), _LINES)
    ]


def _encode(found: list[tuple[list[str], int]], known: Vocabulary, length: int, vocabulary: int) -> Passages:
    tokens = known.encode([[_START_WORD, *words] for words, _ in found], length)
    return Passages(tokens, torch.tensor([label for _, label in found]), vocabulary)
