"""The scores of answers."""

from __future__ import annotations

import random

import pytest
from torchmetrics.functional.text import squad

from shapeshift.errors import DataError
from shapeshift.experiments.data.squad import Answer, Question
from shapeshift.experiments.tasks.answer_scores import AnswerScores, exact_match, f1, normalise, score
from tests.questions import QUESTIONS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("an a the", ""),
        ("Anna's theatre", "annas theatre"),
        ("a-b (c)", "ab c"),
        ("__init__()", "init"),
        ("“Übung”", "“übung”"),  # punctuation beyond ASCII stays
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("given", "right", "exact", "expected"),
    [
        ("the black cat", "Black cat.", 1, 1),
        ("cat", "black cat", 0, 2 / 3),  # precision 1, recall 1/2
        ("a big black dog", "black cat", 0, 2 / 5),  # precision 1/3, recall 1/2
        ("cat cat dog", "cat dog dog", 0, 2 / 3),  # a word counts as often as both have it
        ("dog", "cat", 0, 0),
        ("", "", 1, 1),
        ("", "cat", 0, 0),
        ("the", "", 1, 1),
        ("the", "cat", 0, 0),
    ],
)
def test_scores_of_one_answer_are_as_counted_by_hand(given: str, right: str, exact: float, expected: float) -> None:
    assert exact_match(given, right) == exact
    assert f1(given, right) == expected
    assert f1(right, given) == expected


def test_scores_are_means_over_questions_of_the_closest_answer() -> None:
    several = Question("several", "What?", "a black cat", (Answer("black cat", 2), Answer("cat", 8), Answer("a", 0)))
    unanswerable = Question("none", "Why?", "a black cat", ())
    wrong = Question("wrong", "Who?", "a black cat", (Answer("black cat", 2),))
    found = score([several, unanswerable, wrong], {"several": "cat", "none": "", "wrong": "black dog"})
    assert found == AnswerScores(exact=100 * 2 / 3, f1=100 * (1 + 1 + 1 / 2) / 3)
    # An answer of articles alone is passed over: nothing is no right answer here.
    assert score([several], {"several": ""}) == AnswerScores(0.0, 0.0)
    assert score([unanswerable], {"none": "cat"}) == AnswerScores(0.0, 0.0)


def test_a_question_without_a_given_answer_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="1 questions have no answer, such as 'q1'"):
        score(QUESTIONS[:2], {"q0": "generator"})
    with pytest.raises(DataError, match="no question to score"):
        score([], {})


WORDS = ["The", "a", "an", "cat", "Cat,", "mat", "sat.", "on", "1,000", "--", "“quoted”", "it's", "", "Über"]


def draw_text(rng: random.Random, longest: int) -> str:
    return rng.choice([" ", "  "]).join(rng.choices(WORDS, k=rng.randint(0, longest)))


@pytest.mark.parametrize("longest", [1, 3, 8])
def test_scores_are_those_of_torchmetrics(longest: int) -> None:
    rng = random.Random(longest)
    questions, answers = [], {}
    for index in range(200):
        right = [text for text in (draw_text(rng, longest) for _ in range(rng.randint(0, 3))) if normalise(text)]
        context = "|".join(right)
        questions.append(Question(str(index), "", context, tuple(Answer(text, context.index(text)) for text in right)))
        answers[str(index)] = rng.choice([*right, draw_text(rng, longest), draw_text(rng, longest)])
    # A question without an answer has the empty text as its right one, as in SQuAD v2.0.
    targets = [
        {"id": question.id, "answers": {"text": [answer.text for answer in question.answers] or [""]}}
        for question in questions
    ]
    expected = squad([{"id": name, "prediction_text": text} for name, text in answers.items()], targets)
    found = score(questions, answers)
    assert 0 < found.exact < found.f1 < 100 or longest == 1
    assert found.exact == pytest.approx(expected["exact_match"].item(), rel=1e-5)
    assert found.f1 == pytest.approx(expected["f1"].item(), rel=1e-5)
