"""Captioned images, and the vocabulary of their texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shapeshift.errors import DataError
from shapeshift.experiments.data.captions import CaptionedImages, Phrases, Sentences
from shapeshift.experiments.data.vocabulary import Vocabulary


def test_a_vocabulary_has_the_most_frequent_words() -> None:
    vocabulary = Vocabulary.most_frequent([["b", "a", "c"], ["c", "b"], ["d"]], size=5)
    assert vocabulary.words == ("b", "c", "a")
    assert len(vocabulary) == 5
    tokens = vocabulary.encode([["a", "d", "b"], ["c"], ["a", "b", "c", "b"]], length=3)
    assert tokens.tolist() == [[4, 1, 2], [3, 0, 0], [4, 2, 3]]


def set_of(**parts: Any) -> CaptionedImages:
    """Make a small set in which some parts are replaced."""
    whole: dict[str, Any] = {
        "images": torch.zeros(2, 3, 8, 8),
        "sentences": Sentences(torch.ones(2, 3, dtype=torch.long), torch.tensor([0, 1])),
        "phrases": phrases([0, 0, 8, 8]),
        "vocabulary": Vocabulary(()),
    }
    return CaptionedImages(**{**whole, **parts})


def phrases(box: list[float], image: int = 0) -> Phrases:
    return Phrases(torch.ones(1, 3, dtype=torch.long), torch.tensor([image]), torch.tensor([box]).float())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"images": torch.zeros(0, 3, 8, 8)}, "N > 0"),
        ({"images": torch.zeros(2, 8, 8)}, r"shape \(2, 8, 8\)"),
        ({"sentences": Sentences(torch.ones(1, 3).long(), torch.tensor([1]))}, "image 0 has no sentence"),
        ({"sentences": Sentences(torch.ones(2, 3).long(), torch.tensor([0, 2]))}, "sentence 1 is about none of 2"),
        ({"sentences": Sentences(torch.tensor([[1], [0]]), torch.tensor([0, 1]))}, "sentence 1 has no words"),
        ({"phrases": phrases([0, 0, 8, 8], image=-1)}, "phrase 0 is about none of 2"),
        ({"phrases": phrases([4, 0, 4, 8])}, r"phrase 0 has the box \[4.0, 0.0, 4.0, 8.0\] in an image of 8 x 8"),
        ({"phrases": phrases([0, 0, 8, 9])}, "inside of the image"),
        ({"phrases": phrases([-1, 0, 8, 8])}, "inside of the image"),
    ],
)
def test_what_is_no_set_of_captioned_images_is_refused(parts: dict[str, Any], words: str) -> None:
    set_of()
    with pytest.raises(DataError, match=words):
        set_of(**parts)
