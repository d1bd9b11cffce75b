"""Questions made from text that comes with Python: sentences of its ``help()`` with a term to fill in."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from shapeshift.errors import ConfigError
from shapeshift.experiments.data.squad import Answer, Question

# The place of the missing term in a question: the mask token of masked language models.
GAP = "[MASK]"

_TEST_SHARE = 0.2
_LEAST_WORDS = 8  # words of a paragraph; a shorter one is a heading, or a remark above an example
_SENTENCE_END = re.compile(r'(?<=[.!?:])\s+(?=["*(A-Z])')
_NO_PROSE = re.compile(r"::=|>>>|^\+[-=+]+|^\||[=*~-]{4,}", re.MULTILINE)  # grammars, sessions, tables, headings
_WORD = re.compile(r"(?<![\w\u2019'])\w+(?:[.-]\w+)*(?:\(\))?(?![\w\u2019'])")
_FUNCTION_WORDS = """
    a about above after all also an and any are as at be because been before being below both but by can cannot could do
    does each either else even for from given had has have how however if in into is it its itself like made may might
    more most must no nor not of on one only or other otherwise over own same see should since so some such than that
    the their them then there therefore these they this those through thus to two under up used using very was were what
    when where whether which while who will with within without would you
"""
_NO_TERM = frozenset(_FUNCTION_WORDS.split())


def questions(passage: int = 40, per_sentence: int = 8, reach: int = 6) -> tuple[list[Question], list[Question]]:
    """Make questions from the topics of Python's ``help()``: a sentence with a gap, and its passage.

    A passage is a few sentences of prose. A key term is a run of words between function words and punctuation, as in
    RAKE (Rose et al. 2010, "Automatic Keyword Extraction from Individual Documents", section 1.2). A question is a
    sentence of the passage without one of its key terms, and the term is the answer. A fifth of the passages is the
    test set, the same passages in every run. The text is that of the running Python.

    Args:
        passage: The largest number of words of a passage.
        per_sentence: The largest number of questions made from a sentence.
        reach: The largest number of words that a question keeps on either side of the gap.

    Returns:
        The training questions and the test questions. The passages are shuffled, and the questions of a passage follow
        one another.

    Raises:
        ConfigError: if an argument is less than 1.

    Example:
        >>> from shapeshift.experiments.data.questions import questions
        >>> training, test = questions(passage=24, reach=4)
        >>> len(training) > len(test)
        True
        >>> "[MASK]" in training[0].question
        True
        >>> training[0].answers[0].text in training[0].context
        True
    """
    if min(passage, per_sentence, reach) < 1:
        raise ConfigError(
            f"questions with passage={passage}, per_sentence={per_sentence}, reach={reach}: give numbers from 1"
        )
    found = list(passages(passage))
    sets: tuple[list[Question], list[Question]] = ([], [])
    random = np.random.default_rng(0)
    for place, index in enumerate(random.permutation(len(found))):
        made = _ask(str(index), found[index], per_sentence, reach, random)
        sets[place < _TEST_SHARE * len(found)].extend(made)
    return sets


def passages(words: int) -> Iterator[list[str]]:
    """Yield the prose of all topics as passages, each a list of sentences.

    Topics repeat each other's text. A repeated sentence is left out, so no two passages share one.

    Args:
        words: The largest number of words of a passage. A longer sentence is left out.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    for name in sorted(topics):
        passage: list[str] = []
        room = words
        for block in re.split(r"\n\s*\n", topics[name]):
            for sentence in _prose(block):
                length = len(sentence.split())
                if length > words or sentence in seen:
                    continue
                seen.add(sentence)
                if length > room:
                    yield passage
                    passage, room = [], words
                passage.append(sentence)
                room -= length
        if passage:
            yield passage


def _prose(block: str) -> list[str]:
    """Return the sentences of a paragraph, or none if it is not prose."""
    text = re.sub(r"^(\*|\d+\.)\s+", "", " ".join(block.split()))
    lines = "\n".join(line.strip() for line in block.splitlines())
    prose = re.match(r'["*A-Z]', text) and re.search(r"[.:)]$", text) and not _NO_PROSE.search(lines)
    return _SENTENCE_END.split(text) if prose and len(text.split()) >= _LEAST_WORDS else []


def _ask(name: str, sentences: list[str], most: int, reach: int, random: np.random.Generator) -> Iterator[Question]:
    passage, start = " ".join(sentences), 0
    for sentence in sentences:
        spans = key_terms(sentence)
        for chosen in sorted(random.permutation(len(spans))[:most]):
            begin, end = spans[chosen]
            # Characters that touch the term, such as quotation marks, do not count as words.
            before, after = sentence[:begin].split(" "), sentence[end:].split(" ")
            asked = " ".join(before[-reach - 1 :]) + GAP + " ".join(after[: reach + 1])
            answer = Answer(sentence[begin:end], start + begin)
            yield Question(f"{name}-{answer.start}", asked, passage, (answer,))
        start += len(sentence) + 1


def key_terms(sentence: str) -> list[tuple[int, int]]:
    """Return the spans of the key terms of a sentence: its longest runs of words that are not function words."""
    runs: list[tuple[int, int]] = []
    for word in _WORD.finditer(sentence):
        if word[0].lower() in _NO_TERM or not re.search(r"[^\W\d_]{2}", word[0]):
            continue
        if runs and sentence[runs[-1][1] : word.start()] == " ":
            runs[-1] = runs[-1][0], word.end()
        else:
            runs.append(word.span())
    return runs
