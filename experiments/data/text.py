"""Text that comes with Python: passages of its standard library, to be told apart by the module they are from."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shapeshift.errors import ConfigError, DataError

# One class each: long modules that are a single file of Python in every version.
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

PADDING, UNKNOWN, START = range(3)  # tokens that are no word

_LINES = 4  # of a passage, empty ones not counted
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Passages:
    """A labelled set of passages.

    Attributes:
        tokens: of shape (N, length): a start, words, and padding.
        labels: the module of each, an index into :data:`MODULES`, of shape (N,).
        vocabulary: how many different tokens there are.
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
        """What is no padding: 1 and 0, of the shape of the tokens."""
        return (self.tokens != PADDING).long()


def passages(length: int = 48, vocabulary: int = 1000) -> tuple[Passages, Passages]:
    """Cut the source code of ten modules of the standard library into passages of four lines.

    A word is a run of letters, or any other character that is no space; the most frequent ones of the training set are
    the vocabulary. A fifth of each module's passages, the same ones in every run, is the test set. The training set is
    in mixed order, so that its beginning is a smaller one. The text is that of the Python that runs.

    Args:
        length: tokens of a passage; what is longer is cut.
        vocabulary: different tokens, three of which are no words.

    Returns:
        The training set and the test set.

    Raises:
        ConfigError: if a passage has no room for a word, or the vocabulary none.
        DataError: if this Python comes without the source code.
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
    known = {word: START + 1 + index for index, (word, _) in enumerate(counts.most_common(vocabulary - START - 1))}
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


def _encode(found: list[tuple[list[str], int]], known: dict[str, int], length: int, vocabulary: int) -> Passages:
    tokens = torch.full((len(found), length), PADDING)
    tokens[:, 0] = START
    for row, (words, _) in enumerate(found):
        numbers = [known.get(word, UNKNOWN) for word in words[: length - 1]]
        tokens[row, 1 : len(numbers) + 1] = torch.tensor(numbers)
    return Passages(tokens, torch.tensor([label for _, label in found]), vocabulary)
