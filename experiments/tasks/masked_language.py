"""Pretrain an encoder by predicting masked tokens, with a head that is dropped afterwards."""

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

_MASKED = 0.15  # the share of tokens to predict
_HIDDEN = 0.8  # the share of these that the mask replaces
_REPLACED = 0.1  # the share of these that a random token replaces; the rest stay
_IGNORED = -100  # the label that cross_entropy ignores


class MaskedLanguageModel(nn.Module):
    """An encoder with a head that predicts tokens by comparing hidden states with the encoder's word embeddings.

    The head is that of ALBERT (Lan et al. 2020, section 3.1), which is BERT's where embeddings are as long as hidden
    states. The word embeddings belong to the encoder alone. So the encoder can be compressed before or after, and can
    be given another head.

    Args:
        encoder: An encoder of transformers without a head.

    Example:
        >>> import torch
        >>> from transformers import AlbertConfig, AlbertModel
        >>> from shapeshift.experiments.tasks.masked_language import MaskedLanguageModel
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, **sizes)
        >>> model = MaskedLanguageModel(AlbertModel(config, add_pooling_layer=False))
        >>> tokens = torch.arange(24).view(2, 12)
        >>> model(tokens, mask=torch.ones_like(tokens), wanted=tokens < 5).shape
        torch.Size([5, 50])
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
        """Return the logits at the places of some tokens.

        Args:
            tokens: The tokens, of shape (N, length).
            mask: 1 for tokens and 0 for padding, of the same shape.
            wanted: The places to predict, boolean and of the same shape.

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
        encoder: An encoder of transformers without a head, plain or compressed, on the device to train on.
        texts: The texts to read. A long text is cut into several sequences.
        tokenizer: The tokenizer of the encoder.
        length: The largest number of tokens of a sequence.
        recipe: The optimizer and its settings. On a GPU, autocast trains in bfloat16.
        seed: The seed of the order of the sequences and of the masks.

    Returns:
        The encoder with the head that was trained with it.

    Raises:
        DataError: if there is no text.

    Example:
        >>> from transformers import AlbertConfig, AlbertModel
        >>> from shapeshift.experiments.data.wordpiece import train_wordpiece
        >>> from shapeshift.experiments.tasks.masked_language import pretrain
        >>> from shapeshift.experiments.training import Recipe
        >>> texts = ["Ada wrote a program.", "The engine ran the program."]
        >>> tokenizer = train_wordpiece(texts, size=50)
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> config = AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, **sizes)
        >>> encoder = AlbertModel(config, add_pooling_layer=False)
        >>> recipe = Recipe(epochs=1, learning_rate=1e-3, optimizer="adamw")
        >>> model = pretrain(encoder, texts, tokenizer, length=16, recipe=recipe, seed=0)
        >>> model.encoder is encoder
        True
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
    """Choose the tokens to predict, and hide most of them (Devlin et al. 2019, section 3.1).

    Args:
        tokens: The tokens, of shape (N, length).
        words: Whether each token is an ordinary one, and not a special one; boolean and of the same shape.
        mask: The mask token.
        vocabulary: The number of different tokens.
        generator: The random generator of the choices, on the device of the tokens.

    Returns:
        The encoder's input, and the labels: the token to predict, and -100 elsewhere. Both have the shape of the
        tokens.
    """
    chosen, fate = (torch.rand(tokens.shape, generator=generator, device=tokens.device) for _ in range(2))
    wanted = words & (chosen < _MASKED)
    others = torch.randint(vocabulary, tokens.shape, generator=generator, device=tokens.device)
    given = torch.where(wanted & (fate < _HIDDEN + _REPLACED), others, tokens)
    given = torch.where(wanted & (fate < _HIDDEN), mask, given)
    return given, torch.where(wanted, tokens, _IGNORED)
