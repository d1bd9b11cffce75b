"""Questions about passages: how SQuAD has them, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapeshift.errors import DataError

# Some answers of other data sets in this format are off by a character or two.
_NEARBY = 2


@dataclass(frozen=True)
class Answer:
    """A span of a passage.

    Attributes:
        text: the span.
        start: the character of the passage that it begins with.
    """

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character behind the span."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """A question that a passage answers, or not.

    Attributes:
        id: names the question.
        question: what is asked.
        context: the passage.
        answers: spans of the passage, any of which is right; empty if the passage has no answer.

    Raises:
        DataError: if an answer is empty, or the passage has something else in its place.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]

    def __post_init__(self) -> None:
        for answer in self.answers:
            found = self.context[max(answer.start, 0) : max(answer.end, 0)]
            if not answer.text or answer.start < 0 or found != answer.text:
                raise DataError(
                    f"question {self.id!r}: the answer {answer.text!r} is not in the passage at character "
                    f"{answer.start}, where it has {found!r}"
                )


def load_squad(path: Path) -> list[Question]:
    """Read a file of SQuAD v1.1 (Rajpurkar et al. 2016) or v2.0 (Rajpurkar et al. 2018), or of the same format.

    Args:
        path: the JSON file, such as ``train-v2.0.json``. An answer whose place is off by two characters is put right.

    Returns:
        The questions in the file's order, without an answer where the file calls them impossible.

    Raises:
        DataError: if the file is missing, is not JSON, or is not of the format: it names the place in the file. Two
            questions of one id, no question at all, and an answer that is not in its passage are errors too.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    questions: dict[str, Question] = {}
    for article, where in _items(content, "data", str(path)):
        for paragraph, in_article in _items(article, "paragraphs", where):
            context = _field(paragraph, "context", str, in_article)
            for entry, place in _items(paragraph, "qas", in_article):
                question = _question(entry, context, place)
                if question.id in questions:
                    raise DataError(f"{place}: the id {question.id!r} is that of an earlier question; ids are unique")
                questions[question.id] = question
    if not questions:
        raise DataError(f"{path} has no question: articles have paragraphs, and these have qas")
    return list(questions.values())


def _question(entry: Any, context: str, where: str) -> Question:
    name, text = _field(entry, "id", str, where), _field(entry, "question", str, where)
    impossible = _field(entry, "is_impossible", bool, where) if "is_impossible" in entry else False
    answers = tuple(_answer(answer, context, place) for answer, place in _items(entry, "answers", where))
    if impossible == bool(answers):
        raise DataError(
            f"{where}: a question that is {'impossible has' if impossible else 'not impossible has no'} answers; v2.0 "
            "sets is_impossible where there is no answer, v1.1 has an answer for each question"
        )
    return Question(name, text, context, answers)


def _answer(entry: Any, context: str, where: str) -> Answer:
    text, start = _field(entry, "text", str, where), _field(entry, "answer_start", int, where)
    for shift in sorted(range(-_NEARBY, _NEARBY + 1), key=abs):
        if text and start + shift >= 0 and context.startswith(text, start + shift):
            return Answer(text, start + shift)
    found = context[max(start, 0) : max(start, 0) + max(len(text), 1)]
    raise DataError(
        f"{where}: the answer {text!r} is not in the passage at character {start}, where it has {found!r}; "
        "answer_start counts characters of the context from 0"
    )


def _items(entry: Any, name: str, where: str) -> Iterator[tuple[Any, str]]:
    for index, item in enumerate(_field(entry, name, list, where)):
        yield item, f"{where}: {name}[{index}]" if name == "data" else f"{where}.{name}[{index}]"


def _field(entry: Any, name: str, kind: type[Any], where: str) -> Any:
    if not isinstance(entry, Mapping) or name not in entry:
        keys = ", ".join(map(repr, entry)) if isinstance(entry, Mapping) else f"a {type(entry).__name__}"
        raise DataError(f"{where} has no {name!r}, as files of SQuAD have there, but {keys or 'nothing'}")
    value = entry[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{where}: {name!r} is a {type(value).__name__}, and has to be a {kind.__name__}")
    return value
