"""How right an answer is: exact match and F1, as SQuAD counts them."""

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
    """Means over a set of questions, in percent.

    Attributes:
        exact: answers that match one of the right ones.
        f1: overlap of their words with those of the closest right one.
    """

    exact: float
    f1: float


def normalise(text: str) -> str:
    """Reduce an answer to what counts: lower case, no punctuation of ASCII, no article, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, right: str) -> float:
    """Return 1 if two answers are the same once they are normalised, else 0."""
    return float(normalise(given) == normalise(right))


def f1(given: str, right: str) -> float:
    """Return the harmonic mean of precision and recall of an answer's words (Rajpurkar et al. 2016, section 6.1).

    Where one of the two answers has no words left, F1 is that they are the same (SQuAD v2.0).

    Args:
        given: the answer to judge; the empty text says that there is none.
        right: what it is compared with.
    """
    words, wanted = normalise(given).split(), normalise(right).split()
    if not words or not wanted:
        return float(words == wanted)
    common = (Counter(words) & Counter(wanted)).total()
    return 2 * common / (len(words) + len(wanted))


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> AnswerScores:
    """Score one answer for each question.

    Args:
        questions: with their right answers; of several, the one counts that is closest.
        answers: the given answer by the question's id; the empty text says that there is none.

    Raises:
        DataError: if there is no question, or one without a given answer.
    """
    missing = [question.id for question in questions if question.id not in answers]
    if missing or not questions:
        what = f"{len(missing)} questions have no answer, such as {missing[0]!r}" if missing else "no question to score"
        raise DataError(f"{what}: give a dict from each question's id to a text, the empty one to leave it open")

    def mean(measure: Callable[[str, str], float]) -> float:
        return 100 * sum(_best(measure, question, answers[question.id]) for question in questions) / len(questions)

    return AnswerScores(mean(exact_match), mean(f1))


def _best(measure: Callable[[str, str], float], question: Question, given: str) -> float:
    # As SQuAD does, answers of which nothing would be left are passed over.
    right = [answer.text for answer in question.answers if normalise(answer.text)]
    return max(measure(given, text) for text in right or [""])
