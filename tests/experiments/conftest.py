"""The vocabulary of a passage with questions."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from shapeshift.experiments.data.wordpiece import train_wordpiece
from tests.questions import PASSAGE, QUESTIONS


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece([PASSAGE, *(question.question for question in QUESTIONS)], 120)
