"""Extractive question answering with an encoder of transformers: an answer is a span of the passage."""

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
    """Questions with parts of their passages, in the tokens of an encoder.

    A long passage is cut into several windows that overlap. The first token of each window belongs neither to the
    question nor to the passage, and stands for "no answer here".

    Attributes:
        tokens: The tokens of each window, of shape (N, length).
        mask: 1 for tokens and 0 for padding, of the same shape.
        kinds: The token types: 0 for the question, 1 for the passage and, if matches are marked, 2 for tokens of the
            passage that the question has too. The shape is the same.
        answerable: Whether a token can be the first or the last token of an answer, which the tokens of the passage
            can; boolean and of the same shape.
        starts: The index of the first token of the answer, of shape (N,); 0 if the window does not have the answer.
        ends: The index of the last token of the answer, of shape (N,); 0 if the window does not have the answer.
        offsets: The first character of each token in the passage, and the one after its last, of shape (N, length, 2).
        questions: The index of the question of each window, of shape (N,).

    Example:
        >>> from shapeshift.experiments.data.squad import Answer, Question
        >>> from shapeshift.experiments.data.wordpiece import train_wordpiece
        >>> from shapeshift.experiments.tasks.question_answering import make_windows
        >>> question = Question("1", "Who wrote it?", "Ada wrote it.", (Answer("Ada", start=0),))
        >>> tokenizer = train_wordpiece([question.question, question.context], size=60)
        >>> windows = make_windows([question], tokenizer, length=24, stride=2, question_length=8)
        >>> left, right = windows.offsets[0, windows.starts[0], 0], windows.offsets[0, windows.ends[0], 1]
        >>> question.context[left:right]
        'Ada'
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
    """Turn questions and their passages into windows (Devlin et al. 2019, section 4.2).

    Args:
        questions: The questions with their passages. Of several answers to a question, the first one is the label.
        tokenizer: The tokenizer of the encoder.
        length: The number of tokens of a window.
        stride: The number of tokens of the passage that two neighbouring windows share.
        question_length: The largest number of tokens of a question. The rest of a longer question is dropped.
        mark_matches: Whether tokens of the passage that the question has too get a token type of their own, which takes
            an encoder with three token types. Small encoders have not seen enough text to compare tokens themselves.
            This is the exact match of Chen et al. 2017, "Reading Wikipedia to Answer Open-Domain Questions",
            section 3.2.

    Returns:
        The windows. Those of a question follow one another, in the order of the questions.

    Raises:
        ConfigError: if the lengths leave no room for the passage in a window.
        DataError: if there is no question.

    Example:
        >>> from shapeshift.experiments.data.squad import Answer, Question
        >>> from shapeshift.experiments.data.wordpiece import train_wordpiece
        >>> from shapeshift.experiments.tasks.question_answering import make_windows
        >>> question = Question("1", "Who wrote it?", "Ada wrote it.", (Answer("Ada", start=0),))
        >>> tokenizer = train_wordpiece([question.question, question.context], size=60)
        >>> make_windows([question], tokenizer, length=24, stride=2, question_length=8).tokens.shape
        torch.Size([1, 24])
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
    """Return the first and the last token of each window's answer; zeros if the window does not have all of it."""
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
    """An encoder with a head that predicts the first and the last token of an answer (Devlin et al. 2019, section 4.2).

    Args:
        encoder: An encoder of transformers without a head, plain or compressed.

    Example:
        >>> import torch
        >>> from transformers import AlbertConfig, AlbertModel
        >>> from shapeshift.experiments.tasks.question_answering import QuestionAnswering
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, **sizes)
        >>> model = QuestionAnswering(AlbertModel(config, add_pooling_layer=False))
        >>> tokens = torch.arange(24).view(2, 12)
        >>> model(tokens, mask=torch.ones_like(tokens), kinds=torch.zeros_like(tokens)).shape
        torch.Size([2, 2, 12])
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.spans = nn.Linear(encoder.config.hidden_size, 2)  # type: ignore[union-attr, arg-type]
        self.to(device_of(encoder))

    def forward(self, tokens: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Return the logits of each token as the first and as the last token of the answer.

        Args:
            tokens: The tokens, of shape (N, length).
            mask: 1 for tokens and 0 for padding, of the same shape.
            kinds: The token types, of the same shape.

        Returns:
            Logits of shape (2, N, length), those of the first token before those of the last.
        """
        encoded = self.encoder(input_ids=tokens, attention_mask=mask, token_type_ids=kinds)
        logits: Tensor = self.spans(encoded.last_hidden_state)
        return logits.permute(2, 0, 1)


def fine_tune(model: QuestionAnswering, windows: Windows, recipe: Recipe, seed: int) -> None:
    """Train a model in place to find answers (Devlin et al. 2019, section 4.2), on its own device.

    Args:
        model: The model. Its encoder is trained too.
        windows: The windows of the training questions.
        recipe: The optimizer and its settings.
        seed: The seed of the order of the windows.

    Example:
        >>> from transformers import AlbertConfig, AlbertModel
        >>> from shapeshift.experiments.data.squad import Answer, Question
        >>> from shapeshift.experiments.data.wordpiece import train_wordpiece
        >>> from shapeshift.experiments.tasks.question_answering import QuestionAnswering, fine_tune, make_windows
        >>> from shapeshift.experiments.training import Recipe
        >>> question = Question("1", "Who wrote it?", "Ada wrote it.", (Answer("Ada", start=0),))
        >>> tokenizer = train_wordpiece([question.question, question.context], size=50)
        >>> windows = make_windows([question], tokenizer, length=24, stride=2, question_length=8)
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, **sizes)
        >>> model = QuestionAnswering(AlbertModel(config, add_pooling_layer=False))
        >>> fine_tune(model, windows, Recipe(epochs=2, learning_rate=1e-3, optimizer="adamw"), seed=0)
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
        model: The model. It is put into evaluation mode.
        questions: The questions that the windows were made of.
        windows: All windows of the questions.
        longest: The largest number of tokens of an answer.
        threshold: A question gets no answer if the score of "no answer" exceeds that of the best span by more than
            this, as in SQuAD v2.0. None answers every question, as in v1.1.
        batch_size: The number of windows of a forward pass.

    Returns:
        The answers by the ids of the questions. The empty text means "no answer".

    Example:
        >>> from transformers import AlbertConfig, AlbertModel
        >>> from shapeshift.experiments.data.squad import Answer, Question
        >>> from shapeshift.experiments.data.wordpiece import train_wordpiece
        >>> from shapeshift.experiments.tasks.question_answering import QuestionAnswering, answer, make_windows
        >>> question = Question("1", "Who wrote it?", "Ada wrote it.", (Answer("Ada", start=0),))
        >>> tokenizer = train_wordpiece([question.question, question.context], size=50)
        >>> windows = make_windows([question], tokenizer, length=24, stride=2, question_length=8)
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, **sizes)
        >>> model = QuestionAnswering(AlbertModel(config, add_pooling_layer=False))
        >>> answer(model, [question], windows)["1"] in question.context
        True
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
