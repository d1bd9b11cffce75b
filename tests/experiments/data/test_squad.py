"""The files of SQuAD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shapeshift.errors import DataError
from shapeshift.experiments.data.squad import Answer, Question, load_squad
from tests.questions import PASSAGE


def file_of(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def squad(**changes: Any) -> dict[str, Any]:
    entry = {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 8}], **changes}
    entry = {name: value for name, value in entry.items() if value is not None}
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "Her name Ada.", "qas": [entry]}]}]}


def test_version_1_is_read_with_all_its_answers(tmp_path: Path) -> None:
    answers = [{"text": "Ada", "answer_start": 9}, {"text": "name Ada", "answer_start": 4}]
    (question,) = load_squad(file_of(tmp_path, squad(answers=answers)))
    assert question == Question("1", "Who?", "Her name Ada.", (Answer("Ada", 9), Answer("name Ada", 4)))


def test_version_2_is_read_with_questions_that_have_no_answer(tmp_path: Path) -> None:
    plausible = [{"text": "Ada", "answer_start": 9}]
    content = squad(answers=[], is_impossible=True, plausible_answers=plausible)
    (question,) = load_squad(file_of(tmp_path, content))
    assert question.answers == ()


def test_an_answer_that_is_off_by_a_character_is_put_right(tmp_path: Path) -> None:
    (question,) = load_squad(file_of(tmp_path, squad()))
    assert question.answers == (Answer("Ada", 9),)


TWICE = squad()
TWICE["data"][0]["paragraphs"][0]["qas"] *= 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "has no 'data'"),
        ({"data": {}}, "'data' is a dict, and has to be a list"),
        ({"data": []}, "has no question"),
        ({"data": [{"title": "T"}]}, r"data\[0\] has no 'paragraphs'"),
        (squad(id=None), r"data\[0\].paragraphs\[0\].qas\[0\] has no 'id'"),
        (squad(question=3), "'question' is a int, and has to be a str"),
        (squad(answers=[{"text": "Ada"}]), r"qas\[0\].answers\[0\] has no 'answer_start'"),
        (squad(answers=[{"text": "Ada", "answer_start": True}]), "'answer_start' is a bool"),
        (squad(answers=[{"text": "Bob", "answer_start": 9}]), "'Bob' is not in the passage at character 9"),
        (squad(answers=[{"text": "Ada", "answer_start": 3}]), "at character 3, where it has ' na'"),
        (squad(answers=[{"text": "", "answer_start": 3}]), "the answer '' is not in the passage"),
        (squad(answers=[]), "not impossible has no answers"),
        (squad(is_impossible=True), "is impossible has answers"),
        (TWICE, r"qas\[1\]: the id '1' is that of an earlier question"),
    ],
)
def test_what_is_no_file_of_squad_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load_squad(file_of(tmp_path, content))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json cannot be read as JSON"):
        load_squad(tmp_path / "absent.json")


@pytest.mark.parametrize(("text", "start"), [("store", 3), ("", 0), ("s.", -2)])
def test_an_answer_has_to_be_in_its_passage(text: str, start: int) -> None:
    with pytest.raises(DataError, match="question 'q': the answer"):
        Question("q", "What?", PASSAGE, (Answer(text, start),))
