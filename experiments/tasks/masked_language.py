"""Masked-language-model pretraining of an encoder, with a head that the encoder is rid of afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.errors import DataError, MissingExtraError
from shapeshift.experiments.training import Recipe, fit
from shapeshift.running.batches import device_of

try:
    from transformers import PreTrainedTokenizerFast
except ImportError as error:
    raise MissingExtraError("pretraining an encoder", "transformers") from error

_MASKED = 0.15  # of the tokens are to be predicted, of which
_HIDDEN = 0.8  # are hidden behind the mask
_REPLACED = 0.1  # are replaced by any token; the rest stay
_IGNORED = -100  # what cross_entropy leaves out


class MaskedLanguageModel(nn.Module):
    """An encoder under a head that predicts tokens by comparing with the encoder's own word embeddings.

    The head is that of ALBERT (Lan et al. 2020), and of BERT where embeddings are as long as hidden states. Only the
    encoder has word embeddings, so it can be compressed before or after, and go on to another head.

    Args:
        encoder: an encoder of transformers without a head.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        vocabulary, length = self._embeddings().shape
        self.dense = nn.Linear(encoder.config.hidden_size, length)  # type: ignore[union-attr, arg-type]
        self.norm = nn.LayerNorm(length)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.to(device_of(encoder))

    def forward(self, tokens: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Return the logits of some tokens.

        Args:
            tokens: of shape (N, length).
            mask: 1 for tokens and 0 for padding, of the same shape.
            wanted: which tokens are predicted, boolean and of the same shape.

        Returns:
            Logits of shape (number of wanted tokens, vocabulary).
        """
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state[wanted]
        return F.linear(self.norm(F.gelu(self.dense(hidden))), self._embeddings(), self.bias)

    def _embeddings(self) -> Tensor:
        weight: Tensor = self.encoder.get_input_embeddings().weight  # type: ignore[operator]
        return weight


def pretrain(
    encoder: nn.Module,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    recipe: Recipe,
    seed: int,
) -> MaskedLanguageModel:
    """Pretrain an encoder in place by predicting masked tokens (Devlin et al. 2019, section 3.1).

    Args:
        encoder: an encoder of transformers without a head, plain or compressed, on the device to train on.
        texts: what is read, each cut into sequences.
        tokenizer: makes its tokens.
        length: tokens of a sequence, at most.
        recipe: how it is trained; on a GPU in bfloat16 where autocast allows it.
        seed: of the order of the sequences, and of what is masked.

    Returns:
        The encoder under the head that was trained with it.

    Raises:
        DataError: if there is no text.
    """
    if not texts:
        raise DataError("no text to pretrain on: give at least one")
    encoded = tokenizer(
        list(texts),
        max_length=length,
        truncation=True,
        return_overflowing_tokens=True,
        padding="max_length",
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    device = device_of(encoder)
    tokens, mask = encoded["input_ids"].to(device), encoded["attention_mask"].to(device)
    words = encoded["special_tokens_mask"].to(device) == 0
    generator = torch.Generator(device).manual_seed(seed)
    model = MaskedLanguageModel(encoder)

    def loss(batch: Tensor) -> Tensor:
        batch = batch.to(device)
        given, labels = mask_tokens(tokens[batch], words[batch], tokenizer.mask_token_id, len(tokenizer), generator)
        wanted = labels != _IGNORED
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(given, mask[batch], wanted)
        return F.cross_entropy(logits.float(), labels[wanted])

    fit(model, len(tokens), loss, recipe, seed)
    return model


def mask_tokens(
    tokens: Tensor, words: Tensor, mask: int, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose the tokens that are to be predicted, and hide most of them (Devlin et al. 2019, section 3.1).

    Args:
        tokens: of shape (N, length).
        words: which of them are no special tokens, boolean and of the same shape.
        mask: the token that hides others.
        vocabulary: how many tokens there are.
        generator: of the choice, on the device of the tokens.

    Returns:
        What the encoder is given, and what it is to predict, which is -100 elsewhere; both of the shape of the tokens.
    """
    chosen, fate = (torch.rand(tokens.shape, generator=generator, device=tokens.device) for _ in range(2))
    wanted = words & (chosen < _MASKED)
    others = torch.randint(vocabulary, tokens.shape, generator=generator, device=tokens.device)
    given = torch.where(wanted & (fate < _HIDDEN + _REPLACED), others, tokens)
    given = torch.where(wanted & (fate < _HIDDEN), mask, given)
    return given, torch.where(wanted, tokens, _IGNORED)
