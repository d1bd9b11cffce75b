"""Questions about passages, and the files of SQuAD."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapeshift.errors import DataError

# Other data sets in this format have some answers whose place is wrong by one or two characters.
_NEARBY = 2


@dataclass(frozen=True)
class Answer:
    """A span of a passage.

    Attributes:
        text: The text of the span.
        start: The index in the passage of the span's first character.

    Example:
        >>> from shapeshift.experiments.data.squad import Answer
        >>> Answer("Ada", start=4).end
        7
    """

    text: str
    start: int

    @property
    def end(self) -> int:
        """The index of the first character after the span."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """A question about a passage, with its right answers.

    Attributes:
        id: The unique name of the question.
        question: The text of the question.
        context: The passage.
        answers: Spans of the passage. Each of them is a right answer. There is none if the passage has no answer.

    Raises:
        DataError: if an answer is empty, or the passage has another text in its place.

    Example:
        >>> from shapeshift.experiments.data.squad import Answer, Question
        >>> question = Question("1", "Who wrote it?", "Ada wrote it.", (Answer("Ada", start=0),))
        >>> question.context[: question.answers[0].end]
        'Ada'
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
        path: The JSON file, such as ``train-v2.0.json``. If the place of an answer is wrong by at most two characters,
            it is corrected.

    Returns:
        The questions in the file's order. A question that the file calls impossible has no answers.

    Raises:
        DataError: if the file is missing, is not JSON, or does not have this format, if two questions have the same id,
            if there is no question, or if an answer is not in its passage. The error names the place in the file.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.squad import load_squad
        >>> answers = [{"text": "Ada", "answer_start": 0}]
        >>> paragraph = {"context": "Ada wrote it.", "qas": [{"id": "1", "question": "Who?", "answers": answers}]}
        >>> written = Path("squad.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
        >>> [question.question for question in load_squad(Path("squad.json"))]
        ['Who?']
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
