"""Extractive question answering: windows, answers, and encoders that learn to find them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AlbertModel, PreTrainedTokenizerFast

import shapeshift
from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.tasks.answer_scores import AnswerScores, score
from shapeshift.experiments.tasks.masked_language import pretrain
from shapeshift.experiments.tasks.question_answering import QuestionAnswering, Windows, answer, fine_tune, make_windows
from shapeshift.experiments.training import Recipe
from tests.questions import PASSAGE, QUESTIONS, ask, encoder


def test_the_tokens_of_an_answer_are_found(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = make_windows(QUESTIONS, tokenizer, length=64, stride=8, question_length=16)
    assert len(windows) == 4
    for row, question in enumerate(QUESTIONS[:3]):
        begin, end = windows.offsets[row, windows.starts[row], 0], windows.offsets[row, windows.ends[row], 1]
        assert question.context[begin:end] == question.answers[0].text
        assert windows.answerable[row, windows.starts[row]]
    assert windows.starts[3] == windows.ends[3] == 0
    assert not (windows.answerable & (windows.kinds == 0)).any()
    assert not windows.answerable[:, 0].any()


def test_an_answer_within_a_token_is_that_token(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = make_windows([ask("q", "What?", "emplate")], tokenizer, length=64, stride=8, question_length=16)
    assert windows.offsets[0, windows.starts[0]].tolist() == [PASSAGE.index("templates"), PASSAGE.index(" of a store")]
    assert windows.starts[0] == windows.ends[0]


def test_a_long_passage_is_cut_into_windows_that_overlap(tokenizer: PreTrainedTokenizerFast) -> None:
    question = QUESTIONS[1]
    windows = make_windows([question], tokenizer, length=18, stride=4, question_length=6)
    assert len(windows) > 1
    covered: list[int] = []
    for row in range(len(windows)):
        inside = [tuple(pair) for pair in windows.offsets[row][windows.answerable[row]].tolist()]
        begin, end = inside[0][0], inside[-1][1]
        right = question.answers[0]
        whole = begin <= right.start and right.end <= end
        assert (windows.starts[row] > 0) == (windows.ends[row] > 0) == whole
        if covered:
            assert inside[3][1] == covered[-1]  # four tokens are in both
        covered += [place for _, place in inside]
    assert sorted(set(covered))[-1] == len(PASSAGE)
    assert windows.questions.tolist() == [0] * len(windows)
    assert (windows.starts > 0).any()


def test_words_that_question_and_passage_share_are_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    plain, marked = (make_windows(QUESTIONS[:1], tokenizer, 64, 8, 16, mark_matches=mark) for mark in (False, True))
    shared = [tokenizer.convert_ids_to_tokens(marked.tokens[0][marked.kinds[0] == kind].tolist()) for kind in (2, 1)]
    assert set(shared[0]) == {"makes", "weights"}
    assert {"generator", "templates"} <= set(tokenizer.convert_tokens_to_string(shared[1]).split())
    assert torch.equal(marked.kinds.clamp(max=1), plain.kinds)
    assert set(plain.kinds.unique().tolist()) == {0, 1}


def test_a_long_question_is_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    question = ask("q", "What makes weights, and who shares a store of weights?", "layers")
    windows = make_windows([question], tokenizer, length=48, stride=4, question_length=5)
    asked = windows.tokens[0][(windows.kinds[0] == 0) & (windows.mask[0] == 1)]
    assert tokenizer.decode(asked[1:-1]) == tokenizer.decode(tokenizer(question.question)["input_ids"][1:6])
    assert len(asked) == 7


@pytest.mark.parametrize("sizes", [(10, 4, 4), (32, -1, 8), (32, 4, 0)])
def test_windows_need_room(sizes: tuple[int, int, int], tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match=f"length={sizes[0]} cannot hold question_length={sizes[2]}, 3 special"):
        make_windows(QUESTIONS, tokenizer, *sizes)


def test_windows_need_questions(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="give at least one"):
        make_windows([], tokenizer)


class Fixed(QuestionAnswering):
    """Gives logits that the test chose, whatever it reads."""

    def __init__(self, logits: Tensor) -> None:
        nn.Module.__init__(self)
        self.logits = nn.Parameter(logits)

    def forward(self, tokens: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        return self.logits[:, : len(tokens)]


def best_by_hand(logits: Tensor, windows: Windows, longest: int) -> tuple[float, str]:
    """Try every span of every window."""
    spans = [
        (float(logits[0, row, first] + logits[1, row, last]), row, first, last)
        for row in range(len(windows))
        for first in range(windows.tokens.shape[1])
        for last in range(first, min(first + longest, windows.tokens.shape[1]))
        if windows.answerable[row, first] and windows.answerable[row, last]
    ]
    best, row, first, last = max(spans)
    return best, PASSAGE[int(windows.offsets[row, first, 0]) : int(windows.offsets[row, last, 1])]


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_answer_is_the_best_span_over_all_windows(longest: int, tokenizer: PreTrainedTokenizerFast) -> None:
    question = QUESTIONS[1]
    windows = make_windows([question], tokenizer, length=18, stride=4, question_length=6)
    found = set()
    for seed in range(20):
        logits = torch.randn(2, *windows.tokens.shape, generator=torch.Generator().manual_seed(seed))
        _, text = best_by_hand(logits, windows, longest)
        assert answer(Fixed(logits), [question], windows, longest) == {"q1": text}
        found.add(text)
    assert len(found) > 5


def test_a_question_is_left_open_by_the_threshold(tokenizer: PreTrainedTokenizerFast) -> None:
    question = QUESTIONS[1]
    windows = make_windows([question], tokenizer, length=18, stride=4, question_length=6)
    logits = torch.randn(2, *windows.tokens.shape, generator=torch.Generator().manual_seed(0))
    best, text = best_by_hand(logits, windows, 30)
    # No answer is the claim of the window that claims it least.
    unanswered = float((logits[0, :, 0] + logits[1, :, 0]).min())
    gap = unanswered - best
    for threshold, expected in ((gap + 0.01, text), (gap - 0.01, ""), (None, text)):
        assert answer(Fixed(logits), [question], windows, threshold=threshold) == {"q1": expected}


@pytest.mark.parametrize("compressed", [False, True])
def test_an_encoder_goes_from_pretraining_to_questions_with_its_weights(
    compressed: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    model = encoder(tokenizer)
    if compressed:
        shapeshift.compress(model, "70%", mapping="shape")
    size = shapeshift.count_parameters(model)
    pretrain(model, [PASSAGE] * 4, tokenizer, 64, Recipe(2, 4, 1e-3, optimizer="adamw"), seed=0)
    reader = QuestionAnswering(model)
    assert shapeshift.count_parameters(reader) == size + 2 * 32 + 2
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    windows = make_windows(QUESTIONS, tokenizer, length=64, stride=8, question_length=16)
    fine_tune(reader, windows, Recipe(60, 4, 5e-3, weight_decay=0.0, optimizer="adamw"), seed=0)
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    answers = answer(reader, QUESTIONS, windows, threshold=0.0)
    assert answers == {"q0": "generator", "q1": "templates of a store", "q2": "layers.", "q3": ""}
    assert score(QUESTIONS, answers) == AnswerScores(100.0, 100.0)
    if compressed:
        shapeshift.materialize(model)
        assert type(model) is AlbertModel
        assert answer(reader, QUESTIONS, windows, threshold=0.0) == answers
