"""The scores of SQuAD for answers: exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shapeshift.errors import DataError
from shapeshift.experiments.data.squad import Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class AnswerScores:
    """Mean scores over a set of questions, in percent.

    Attributes:
        exact: The share of questions whose answer matches one of the right answers.
        f1: The mean F1 of the answers' words against the closest right answer.

    Example:
        >>> from shapeshift.experiments.tasks.answer_scores import AnswerScores
        >>> AnswerScores(exact=50.0, f1=83.3).exact
        50.0
    """

    exact: float
    f1: float


def normalise(text: str) -> str:
    """Reduce an answer to the part that is compared: lower case, no ASCII punctuation, no articles, single spaces.

    Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1.

    Args:
        text: The answer.

    Returns:
        The normalised answer. It can be empty.

    Example:
        >>> from shapeshift.experiments.tasks.answer_scores import normalise
        >>> normalise("The  Analytical Engine!")
        'analytical engine'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, right: str) -> float:
    """Return 1 if two answers are equal after :func:`normalise`, else 0 (Rajpurkar et al. 2016, section 6.1).

    Args:
        given: The answer to judge. The empty text means "no answer".
        right: The right answer.

    Returns:
        1.0 or 0.0.

    Example:
        >>> from shapeshift.experiments.tasks.answer_scores import exact_match
        >>> exact_match("The Analytical Engine", "analytical engine")
        1.0
    """
    return float(normalise(given) == normalise(right))


def f1(given: str, right: str) -> float:
    """Return the harmonic mean of precision and recall of an answer's words (Rajpurkar et al. 2016, section 6.1).

    If normalising leaves no words of an answer, F1 is 1 if both answers are empty, else 0, as in SQuAD v2.0.

    Args:
        given: The answer to judge. The empty text means "no answer".
        right: The right answer.

    Returns:
        A number between 0 and 1.

    Example:
        >>> from shapeshift.experiments.tasks.answer_scores import f1
        >>> round(f1("an engine of brass", "brass engine"), 2)
        0.8
    """
    words, wanted = normalise(given).split(), normalise(right).split()
    if not words or not wanted:
        return float(words == wanted)
    common = (Counter(words) & Counter(wanted)).total()
    return 2 * common / (len(words) + len(wanted))


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> AnswerScores:
    """Score one answer for each question.

    Args:
        questions: The questions with their right answers. Of several right answers, the closest one counts.
        answers: The given answers, by the ids of the questions. The empty text means "no answer".

    Returns:
        The mean scores in percent.

    Raises:
        DataError: if there is no question, or a question has no given answer.

    Example:
        >>> from shapeshift.experiments.data.squad import Answer, Question
        >>> from shapeshift.experiments.tasks.answer_scores import score
        >>> question = Question("1", "Who wrote it?", "Ada wrote it.", (Answer("Ada", start=0),))
        >>> score([question], {"1": "ada"})
        AnswerScores(exact=100.0, f1=100.0)
    """
    missing = [question.id for question in questions if question.id not in answers]
    if missing or not questions:
        what = f"{len(missing)} questions have no answer, such as {missing[0]!r}" if missing else "no question to score"
        raise DataError(f"{what}: give a dict from each question's id to a text, the empty one to leave it open")

    def mean(measure: Callable[[str, str], float]) -> float:
        return 100 * sum(_best(measure, question, answers[question.id]) for question in questions) / len(questions)

    return AnswerScores(mean(exact_match), mean(f1))


def _best(measure: Callable[[str, str], float], question: Question, given: str) -> float:
    # Like SQuAD's script, skip right answers that are empty after normalising.
    right = [answer.text for answer in question.answers if normalise(answer.text)]
    return max(measure(given, text) for text in right or [""])
