"""Questions about Python, made from its documentation."""

from __future__ import annotations

from collections import Counter

import pytest

from shapeshift.errors import ConfigError
from shapeshift.experiments.data.questions import GAP, questions
from shapeshift.experiments.data.squad import Question
from shapeshift.experiments.tasks.answer_scores import normalise


def test_a_made_question_is_a_sentence_of_its_passage_with_the_answer_left_out(
    made: tuple[list[Question], list[Question]],
) -> None:
    for question in made[0] + made[1]:
        (right,) = question.answers
        before, after = question.question.split(GAP)
        place = right.start - len(before)
        assert question.context[place : right.end + len(after)] == before + right.text + after
        assert normalise(right.text)


def test_made_questions_are_many_and_no_passage_is_in_both_sets(made: tuple[list[Question], list[Question]]) -> None:
    training, test = made
    assert len(training) > 2000
    assert 0.15 < len(test) / (len(training) + len(test)) < 0.25
    assert {question.context for question in training}.isdisjoint(question.context for question in test)
    names = [question.id for question in training + test]
    assert len(set(names)) == len(names)
    # Terms of several words, too: otherwise F1 would be exact match.
    assert Counter(len(question.answers[0].text.split()) for question in training)[2] > 500


def test_made_questions_are_the_same_in_every_run(made: tuple[list[Question], list[Question]]) -> None:
    assert questions() == made


@pytest.mark.parametrize("options", [{"passage": 0}, {"per_sentence": 0}, {"reach": 0}])
def test_sizes_of_made_questions_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="give numbers from 1"):
        questions(**options)
