"""Perl's frequently asked questions: real questions, each to be answered by the right one of a few answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.plain_text import Source
from shapeshift.experiments.data.squad import Answer, Question

SOURCE = Source(
    Path("/usr/share/perl"),
    "**/perlfaq[1-9].pod",
    "Perl's questions come with Debian's package perl-doc (apt-get install perl-doc); or give the folder of "
    "perlfaq1.pod to perlfaq9.pod",
)

_TEST_SHARE = 0.2
_SENTENCE_END = re.compile(r'(?<=[.!?:])\s+(?=["(A-Z])')
_INDEX = re.compile(r"[XZ]<[^<>]*>")  # codes that show nothing
_ESCAPES = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}
# A code is a letter with a text in angle brackets, or in several of them with spaces inside.
_CODE = re.compile(r"([BCFILS])(?:<<+\s+(.*?)\s+>>+|<((?:E<\w+>|[^<>])*)>)", re.DOTALL)


def perlfaq(
    data_dir: Path | None = None, candidates: int = 3, words: int = 25, passages: int = 8, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Load the questions of perlfaq1 to perlfaq9, some 300, each with passages to find the answer in.

    The answers are long, and nobody has marked their essential parts. So a passage is a list of a few answers in random
    order, each of them cut to its first sentences of prose, and the right answer to a question is its own item. A fifth
    of the questions is the test set. Training passages have no answers of the test set, and test passages no others.

    Args:
        data_dir: A folder that has ``perlfaq1.pod`` to ``perlfaq9.pod`` in it or below it. None means that of Debian's
            package ``perl-doc``.
        candidates: The number of answers in a passage. One of them is right.
        words: The largest number of words of each answer. A first sentence that is longer is cut.
        passages: The number of passages of a question. They differ in the wrong answers.
        seed: The seed of the split, and of the choice of wrong answers.

    Returns:
        The training questions and the test questions. Those of one heading follow one another.

    Raises:
        ConfigError: if there are less than two candidates, or a number is less than 1.
        DataError: if no file is found, one cannot be read, or there are too few questions.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.perlfaq import perlfaq
        >>> text = "=head2 Is it C<{0}>?\\n\\nYes, it is C<{0}>.\\n\\n"
        >>> written = Path("perlfaq1.pod").write_text("".join(text.format(name) for name in "abcdefghij"))
        >>> training, test = perlfaq(Path("."), candidates=2, passages=1)
        >>> len(training), len(test)
        (8, 2)
        >>> training[0].answers[0].text in training[0].context
        True
    """
    if candidates < 2 or min(words, passages) < 1:
        raise ConfigError(
            f"perlfaq with candidates={candidates}, words={words}, passages={passages}: give at least 2, 1 and 1"
        )
    files = SOURCE.files(data_dir)
    answers = {question: _start(prose, words) for path in files for question, prose in answered(_read(path))}
    random = np.random.default_rng(seed)
    order = [list(answers)[place] for place in random.permutation(len(answers))]
    held = round(_TEST_SHARE * len(order))
    if held < candidates:
        raise DataError(
            f"{len(files)} files of perlfaq have {len(order)} questions with answers, and {candidates} candidates of a "
            f"test question need at least {candidates} in a fifth of them: {SOURCE.how}"
        )
    training, test = order[held:], order[:held]
    return tuple(  # type: ignore[return-value]
        [each for question in part for each in _ask(question, part, answers, candidates, passages, random)]
        for part in (training, test)
    )


def answered(text: str) -> Iterator[tuple[str, str]]:
    """Yield the questions of a pod file and the prose of their answers, without code, lists and notes on authors.

    Args:
        text: The text of the file. A question is a heading of the second level.

    Yields:
        The question and its answer, each a line of plain text. Questions that have no prose are left out.
    """
    question, prose = "", list[str]()
    for block in [*re.split(r"\n\s*\n", text), "=cut"]:
        if block.startswith("=head") or block == "=cut":
            if question and prose:
                yield question, " ".join(prose)
            heading, _, title = block.partition(" ")
            # Lines of the heading that follow its title are codes for an index.
            question, prose = plain(title) if heading == "=head2" else "", []
        elif question and block[:1] not in ("=", " ", "\t", "") and not block.startswith("(contributed by"):
            prose += [shown] if (shown := plain(block)) else []


def plain(pod: str) -> str:
    """Turn a paragraph of pod into a line of plain text: codes become their text, and links their label or target."""
    text, before = _INDEX.sub("", pod), ""
    while text != before:  # codes can be inside of others
        before, text = text, _CODE.sub(_shown, text)
    # Last, since an escape can stand for a bracket, which would end a code.
    return " ".join(re.sub(r"E<(\w+)>", lambda code: _ESCAPES.get(code[1], code[1]), text).split())


def _shown(code: re.Match[str]) -> str:
    text = code[2] or code[3] or ""
    return text.partition("|")[0] if code[1] == "L" else text


def _start(prose: str, words: int) -> str:
    """Return as many first sentences as fit into a number of words, or the first words of a longer sentence."""
    first, *others = _SENTENCE_END.split(prose)
    kept = first.split()[:words]
    for sentence in others:
        if len(kept) + len(sentence.split()) > words:
            break
        kept += sentence.split()
    return " ".join(kept)


def _ask(
    question: str, part: list[str], answers: dict[str, str], candidates: int, passages: int, random: np.random.Generator
) -> Iterator[Question]:
    """Yield a question with several passages, each of the right answer and others of the same part of the data."""
    others = [other for other in part if other != question]
    for number in range(passages):
        chosen = [others[place] for place in random.permutation(len(others))[: candidates - 1]]
        chosen.insert(random.integers(candidates), question)
        items = [f"* {answers[other]}" for other in chosen]
        before = "\n".join([*items[: chosen.index(question)], "* "])
        yield Question(f"{question} {number}", question, "\n".join(items), (Answer(answers[question], len(before)),))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
