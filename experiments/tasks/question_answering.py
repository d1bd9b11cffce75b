"""Extractive question answering with an encoder of transformers: the answer is a span of the passage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.errors import ConfigError, DataError, MissingExtraError
from shapeshift.experiments.data.squad import Answer, Question
from shapeshift.experiments.training import Recipe, fit
from shapeshift.running.batches import device_of

try:
    from transformers import PreTrainedTokenizerFast
except ImportError as error:
    raise MissingExtraError("question answering", "transformers") from error


@dataclass(frozen=True)
class Windows:
    """Questions with as much of their passages as fits, in the tokens of an encoder.

    A passage that is too long is cut into several windows that overlap. The first token of each, which belongs to
    neither question nor passage, stands for "no answer here".

    Attributes:
        tokens: of shape (N, length).
        mask: 1 for tokens and 0 for padding, of the same shape.
        kinds: 0 for the question, 1 for the passage and, where they are marked, 2 for tokens that are in both, of the
            same shape.
        answerable: which tokens may begin or end an answer: those of the passage; boolean, of the same shape.
        starts: the first token of the answer, of shape (N,); 0 where the window does not have it.
        ends: the last token of the answer, in the same way.
        offsets: where each token begins and ends in the passage, in characters, of shape (N, length, 2).
        questions: the index of the question of each window, of shape (N,).
    """

    tokens: Tensor
    mask: Tensor
    kinds: Tensor
    answerable: Tensor
    starts: Tensor
    ends: Tensor
    offsets: Tensor
    questions: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


def make_windows(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerFast,
    length: int = 384,
    stride: int = 128,
    question_length: int = 64,
    mark_matches: bool = False,
) -> Windows:
    """Turn questions into windows (Devlin et al. 2019, section 4.2); of several answers, the first one is looked for.

    Args:
        questions: with their passages.
        tokenizer: makes tokens of them.
        length: tokens of a window.
        stride: tokens of the passage that two windows share.
        question_length: tokens of the question; what is longer is cut.
        mark_matches: whether tokens of the passage that the question has too are of a kind of their own, which takes an
            encoder with three types of tokens. A small encoder has not seen enough text to compare tokens by itself
            (the exact match of Chen et al. 2017, "Reading Wikipedia to Answer Open-Domain Questions", section 3.2).

    Raises:
        ConfigError: if the lengths leave a window no room to move on in the passage.
        DataError: if there is no question.
    """
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    if min(stride, question_length - 1) < 0 or length <= question_length + specials + stride:
        raise ConfigError(
            f"windows of length={length} cannot hold question_length={question_length}, {specials} special tokens and "
            f"stride={stride} of the passage with room for more: raise length, or lower the others"
        )
    if not questions:
        raise DataError("no question to make windows of: give at least one")
    encoded = tokenizer(
        [_cut(question.question, tokenizer, question_length) for question in questions],
        [question.context for question in questions],
        max_length=length,
        stride=stride,
        truncation="only_second",
        padding="max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    offsets, owners = encoded["offset_mapping"], encoded["overflow_to_sample_mapping"]
    parts = [encoded.sequence_ids(row) for row in range(len(owners))]
    asked, answerable = (torch.tensor([[part == which for part in row] for row in parts]) for which in (0, 1))
    starts, ends = _tokens_of([questions[owner].answers[:1] for owner in owners.tolist()], offsets, answerable)
    tokens, mask, kinds = (encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    if mark_matches:
        known = [torch.isin(row, row[question]) for row, question in zip(tokens, asked, strict=True)]
        kinds = kinds + (torch.stack(known) & answerable)
    return Windows(tokens, mask, kinds, answerable, starts, ends, offsets, owners)


def _cut(question: str, tokenizer: PreTrainedTokenizerFast, most: int) -> str:
    offsets = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return question if len(offsets) <= most else question[: offsets[most - 1][1]]


def _tokens_of(answers: Sequence[Sequence[Answer]], offsets: Tensor, answerable: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last token of each window's answer; zeros if there is none, or the window cuts it."""
    spans = torch.tensor([[(one.start, one.end) for one in some] or [(-1, -1)] for some in answers])
    begin, end = spans[:, :, 0], spans[:, :, 1]
    left, right = offsets.unbind(-1)
    inside = answerable & (right > begin) & (left < end)
    # The window has the passage from its first to its last token.
    whole = (left.masked_fill(~answerable, left.max()).amin(1) <= begin[:, 0]) & (
        right.masked_fill(~answerable, 0).amax(1) >= end[:, 0]
    )
    places = torch.arange(offsets.shape[1])
    first = places.where(inside, len(places)).amin(1).where(whole & inside.any(1), 0)
    last = places.where(inside, -1).amax(1).where(whole & inside.any(1), 0)
    return first, last


class QuestionAnswering(nn.Module):
    """An encoder under a head that tells where an answer begins and where it ends (Devlin et al. 2019, section 4.2).

    Args:
        encoder: an encoder of transformers without a head, plain or compressed.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.spans = nn.Linear(encoder.config.hidden_size, 2)  # type: ignore[union-attr, arg-type]
        self.to(device_of(encoder))

    def forward(self, tokens: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Return the logits of being the first and the last token of the answer.

        Args:
            tokens: of shape (N, length).
            mask: 1 for tokens and 0 for padding, of the same shape.
            kinds: of the tokens, of the same shape.

        Returns:
            Logits of shape (2, N, length).
        """
        encoded = self.encoder(input_ids=tokens, attention_mask=mask, token_type_ids=kinds)
        logits: Tensor = self.spans(encoded.last_hidden_state)
        return logits.permute(2, 0, 1)


def fine_tune(model: QuestionAnswering, windows: Windows, recipe: Recipe, seed: int) -> None:
    """Train a model in place to find answers, on the device that it is on.

    Args:
        model: its encoder is trained along.
        windows: of the training questions.
        recipe: how.
        seed: of the order of the windows.
    """
    device = device_of(model)
    tokens, mask, kinds = (part.to(device) for part in (windows.tokens, windows.mask, windows.kinds))
    allowed = _allowed(windows).to(device)
    labels = torch.stack([windows.starts, windows.ends]).to(device)

    def loss(batch: Tensor) -> Tensor:
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(tokens[batch], mask[batch], kinds[batch])
        logits = logits.float().masked_fill(~allowed[batch], -torch.inf)
        return F.cross_entropy(logits.flatten(0, 1), labels[:, batch].flatten())

    fit(model, len(windows), loss, recipe, seed)


def _allowed(windows: Windows) -> Tensor:
    allowed = windows.answerable.clone()
    allowed[:, 0] = True
    return allowed


@torch.inference_mode()
def answer(
    model: QuestionAnswering,
    questions: Sequence[Question],
    windows: Windows,
    longest: int = 30,
    threshold: float | None = None,
    batch_size: int = 256,
) -> dict[str, str]:
    """Answer questions by the best span over all of their windows (Devlin et al. 2019, sections 4.2 and 4.3).

    Args:
        model: it is put into evaluation mode.
        questions: what the windows were made of.
        windows: all of them.
        longest: tokens of an answer, at most.
        threshold: a question is left open where that scores higher than the best span by more than this, as SQuAD v2.0
            has it; None to answer each one, as in v1.1.
        batch_size: windows at once.

    Returns:
        From each question's id to its answer, the empty text where it is left open.
    """
    model.eval()
    device = device_of(model)
    best: list[tuple[float, str]] = [(-float("inf"), "")] * len(questions)
    open_score = [float("inf")] * len(questions)
    for rows in torch.arange(len(windows)).split(batch_size):
        parts = (part[rows].to(device) for part in (windows.tokens, windows.mask, windows.kinds))
        starts, ends = model(*parts).float().cpu()
        scores, first, last = _best_spans(starts, ends, windows.answerable[rows], longest)
        for place, row in enumerate(rows.tolist()):
            question = int(windows.questions[row])
            open_score[question] = min(open_score[question], float(starts[place, 0] + ends[place, 0]))
            if scores[place] > best[question][0]:
                begin, end = int(windows.offsets[row, first[place], 0]), int(windows.offsets[row, last[place], 1])
                best[question] = (float(scores[place]), questions[question].context[begin:end])
    return {
        question.id: "" if threshold is not None and unanswered > score + threshold else text
        for question, (score, text), unanswered in zip(questions, best, open_score, strict=True)
    }


def _best_spans(starts: Tensor, ends: Tensor, answerable: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the score, the first and the last token of the best span of each window."""
    length = starts.shape[1]
    starts, ends = (logits.masked_fill(~answerable, -torch.inf) for logits in (starts, ends))
    band = torch.ones(length, length, dtype=torch.bool).triu().tril(longest - 1)
    scores = (starts[:, :, None] + ends[:, None, :]).masked_fill(~band, -torch.inf)
    best, place = scores.flatten(1).max(1)
    return best, place // length, place % length
