"""Calibration with padded batches: equal to that with the same sentences one by one, without padding."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift.fitting import calibrate
from shapeshift.weights import find_weights
from tests.fitted import gpt2, shared_weights
from tests.teachers import bert
from tests.tolerances import assert_close

LENGTHS = [3, 7, 1, 5]


def sentences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 40, (length,), generator=generator) for length in LENGTHS]


def padded(to: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return the sentences padded with zeros to one length, and where they have tokens."""
    ids = torch.zeros(len(LENGTHS), to, dtype=torch.long)
    counts = torch.zeros_like(ids)
    for row, sentence in enumerate(sentences()):
        part = slice(to - len(sentence), to) if left else slice(len(sentence))
        ids[row, part], counts[row, part] = sentence, 1
    return ids, counts


def t5() -> nn.Module:
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=40, **shape))


def mixtral() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"num_key_value_heads": 2, "num_local_experts": 4, "vocab_size": 40}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape, **sizes))


class Encoder(nn.Module):
    """Torch's own layers, whose inputs have the positions or the samples first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, tokens_key_padding_mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens), src_key_padding_mask=tokens_key_padding_mask))


class Shaped(nn.Module):
    """A network that brings its tokens into all kinds of shapes: maps of channels, one flat row each, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(40, 8), nn.Embedding(12, 8)
        self.convolution = nn.Conv1d(8, 6, 3, padding=1)
        self.flat, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places(torch.arange(tokens.shape[1]))
        x = self.convolution(x.movedim(1, 2)).movedim(2, 1).relu()
        return self.head(self.flat(x.reshape(-1, 6)).view(x.shape).mean(1))


def masked(ids: Tensor, counts: Tensor) -> Any:
    return {"input_ids": ids, "attention_mask": counts, "labels": ids}


def labelled(ids: Tensor, counts: Tensor) -> Any:
    return ids, torch.where(counts == 1, ids, -100)


def key_padded(ids: Tensor, counts: Tensor) -> Any:
    return {"tokens": ids, "tokens_key_padding_mask": counts == 0}


def time_first(ids: Tensor, counts: Tensor) -> Any:
    return {"tokens": ids.T, "tokens_key_padding_mask": counts == 0}


def translated(ids: Tensor, counts: Tensor) -> Any:
    labels = torch.where(counts == 1, ids, -100)
    return {"input_ids": ids, "attention_mask": counts, "decoder_input_ids": ids, "labels": labels}


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor, Tensor], Any], bool]] = {
    "gpt2": (gpt2, masked, False),
    "gpt2, left": (gpt2, masked, True),
    "gpt2, labels": (gpt2, labelled, False),
    "bert": (lambda: bert("MaskedLM", 1, 16), masked, False),
    "t5": (t5, translated, False),
    "experts": (mixtral, masked, False),
    "batch first": (lambda: Encoder(True), key_padded, False),
    "time first": (lambda: Encoder(False), time_first, False),
    "shapes": (Shaped, labelled, False),
}


@pytest.mark.parametrize("case", CASES)
def test_padding_changes_no_error_map(case: str) -> None:
    build, batch_of, left = CASES[case]
    torch.manual_seed(0)
    model = build().eval()
    weights = find_weights(model)
    alone = [batch_of(sentence[None], torch.ones_like(sentence)[None]) for sentence in sentences()]
    expected = calibrate(model, weights, alone)
    with warnings.catch_warnings(action="error", category=shapeshift.ShapeshiftWarning):
        found = calibrate(model, weights, [batch_of(*padded(10, left))])
    assert found.keys() == expected.keys()
    assert len(expected) >= 3
    for name, error_map in found.items():
        error = torch.randn(next(weight for weight in weights if weight.name == name).shape)
        assert_close(error_map(error), expected[name](error), "reordered")


@pytest.mark.parametrize("to", [7, 12])
def test_a_fit_on_padded_batches_is_that_on_sentences(to: int) -> None:
    fitted = [
        shared_weights(shapeshift.compress(gpt2_again(), 0.6, init="fit", calibration=loader, seed=0))
        for loader in (
            [masked(*padded(to))],
            [masked(sentence[None], torch.ones_like(sentence)[None]) for sentence in sentences()],
        )
    ]
    assert_close(fitted[0], fitted[1], "identical")


def gpt2_again() -> nn.Module:
    torch.manual_seed(1)
    return gpt2()


def test_values_at_the_padding_need_not_be_finite() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    x, labels = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.long)
    x[0, 3:], labels[0, 3:] = torch.nan, -100
    assert calibrate(model, find_weights(model), [(x, labels)])
    with pytest.raises(shapeshift.ModelError, match="not finite"):
        calibrate(model, find_weights(model), [x])


class Fixed(nn.Module):
    """A network of a fixed number of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 4)
        self.head = nn.Linear(40, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids).flatten(1))


def test_a_model_that_needs_its_padding_warns_once() -> None:
    model = Fixed()
    ids, counts = padded(10)
    batch = {"input_ids": ids, "attention_mask": counts}
    weights = find_weights(model)
    with pytest.warns(shapeshift.ShapeshiftWarning, match="Fixed cannot run on it without the padding") as caught:
        found = calibrate(model, weights, [batch, batch])
    assert len(caught) == 1
    expected = calibrate(model, weights, [{**batch, "attention_mask": torch.ones_like(counts)}] * 2)
    for weight in weights:
        error = torch.randn(weight.shape)
        assert_close(found[weight.name](error), expected[weight.name](error), "identical")


def test_a_mask_that_cannot_be_read_warns() -> None:
    model, (ids, counts) = gpt2(), padded(10)
    square = (counts[:, None, :, None] * counts[:, None, None, :]).float().log()
    with pytest.warns(shapeshift.ShapeshiftWarning, match=r"attention_mask has the shape \(4, 1, 10, 10\)"):
        calibrate(model, find_weights(model), [{"input_ids": ids, "attention_mask": square.clamp(min=-1e9)}])
