"""The vocabulary of word pieces."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from shapeshift.errors import ConfigError
from shapeshift.experiments.data.questions import GAP
from shapeshift.experiments.data.squad import Question
from shapeshift.experiments.data.wordpiece import train_wordpiece


def test_a_vocabulary_reads_pairs_as_bert_does(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer(f"Who {GAP}?", "Templates")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == [
        *("[CLS]", "who", "[MASK]", "?", "[SEP]", "templates", "[SEP]")
    ]
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) <= 120


def test_a_name_of_code_is_one_word() -> None:
    tokenizer = train_wordpiece(["__init__(self)"] * 3, 100)
    assert tokenizer.tokenize("__init__(self)") == ["__init__", "(", "self", ")"]


def test_a_vocabulary_is_the_same_in_every_run(made: tuple[list[Question], list[Question]]) -> None:
    # The trainer of tokenizers goes through tables whose order is another one each time.
    texts = [question.context for question in made[0][:400]]
    first, second, third = (train_wordpiece(texts, 600).get_vocab() for _ in range(3))
    assert first == second == third
    assert len(first) == 600


def test_a_vocabulary_has_room_for_words() -> None:
    with pytest.raises(ConfigError, match="more than the 5 special tokens"):
        train_wordpiece(["word"], 5)
