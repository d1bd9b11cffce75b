"""Pretraining by masked words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AlbertModel, BertConfig, BertModel, PreTrainedTokenizerFast

import shapeshift
from shapeshift.errors import DataError
from shapeshift.experiments.tasks.masked_language import MaskedLanguageModel, mask_tokens, pretrain
from shapeshift.experiments.training import Recipe
from tests.questions import PASSAGE, encoder
from tests.tolerances import assert_close


def test_masking_hides_replaces_and_keeps_as_bert_does() -> None:
    tokens = torch.randint(5, 1000, (400, 100), generator=torch.Generator().manual_seed(0))
    words = torch.ones_like(tokens, dtype=torch.bool)
    words[:, 0] = False
    given, labels = mask_tokens(tokens, words, 4, 1000, torch.Generator().manual_seed(1))
    wanted = labels >= 0
    assert torch.equal(labels[wanted], tokens[wanted])
    assert torch.equal(given[~wanted], tokens[~wanted])
    assert not wanted[:, 0].any()
    shares = [
        wanted[:, 1:].float().mean().item(),
        (given == 4)[wanted].float().mean().item(),
        (given == tokens)[wanted].float().mean().item(),
    ]
    # 6,000 draws: three standard deviations are less than 0.02.
    assert shares == pytest.approx([0.15, 0.8, 0.1], abs=0.02)


@pytest.mark.parametrize("kind", ["albert", "bert", "compressed"])
def test_tokens_are_predicted_by_the_encoders_own_embeddings(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 16}
        model: nn.Module = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False)
    else:
        model = encoder(tokenizer)
    if kind == "compressed":
        shapeshift.compress(model, "60%")
    own = shapeshift.count_parameters(model)
    language = MaskedLanguageModel(model).eval()
    width = language.norm.normalized_shape[0]
    hidden = model.config.hidden_size
    assert shapeshift.count_parameters(language) == own + hidden * width + 3 * width + len(tokenizer)
    encoded = tokenizer([PASSAGE], return_tensors="pt")
    tokens, mask = encoded["input_ids"], encoded["attention_mask"]
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[0, 3:5] = True
    logits = language(tokens, mask, wanted)
    states = model(tokens, mask).last_hidden_state[0, 3:5]
    table = model.embeddings.word_embeddings(torch.arange(len(tokenizer)))
    by_hand = language.norm(nn.functional.gelu(language.dense(states))) @ table.T + language.bias
    assert_close(logits, by_hand, "reordered")
    # The head alone reaches the embeddings of words that the text does not have.
    logits[:, -1].sum().backward()
    assert all(parameter.grad is not None for parameter in language.parameters() if parameter.dim() > 1)


def test_pretraining_learns_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer([PASSAGE], return_tensors="pt")
    tokens, mask = encoded["input_ids"], encoded["attention_mask"]
    hidden = torch.zeros_like(mask, dtype=torch.bool)
    hidden[0, 2::4] = True
    torch.manual_seed(0)
    model = encoder(tokenizer)

    @torch.inference_mode()
    def right(language: MaskedLanguageModel) -> float:
        guesses = language(tokens.masked_fill(hidden, tokenizer.mask_token_id), mask, hidden).argmax(1)
        return (guesses == tokens[hidden]).float().mean().item()

    assert right(MaskedLanguageModel(model)) < 0.3
    recipe = Recipe(25, 16, 5e-3, weight_decay=0.0, optimizer="adamw")
    language = pretrain(model, [PASSAGE] * 64, tokenizer, 64, recipe, seed=0)
    assert language.encoder is model
    assert right(language) > 0.8
    with pytest.raises(DataError, match="no text"):
        pretrain(model, [], tokenizer, 64, recipe, seed=0)


def test_a_text_that_is_too_long_is_read_to_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    read: set[int] = set()

    class Noting(AlbertModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            read.update(kwargs["input_ids"].flatten().tolist())
            return super().forward(*args, **kwargs)

    model = Noting(encoder(tokenizer).config, add_pooling_layer=False)
    pretrain(model, [PASSAGE], tokenizer, 12, Recipe(6, 4, 1e-3, optimizer="adamw"), seed=0)
    assert set(tokenizer(PASSAGE)["input_ids"]) <= read
