"""Weights that several layers share: generated once, and tied again after materializing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import shapeshift
from shapeshift import GeneratedWeightError
from tests.library_models import tiny_gpt2
from tests.methods import compressed
from tests.models import Language
from tests.tolerances import assert_close


class TestTies:
    def test_a_tied_weight_is_generated_once(self, generations: list[int]) -> None:
        model = compressed(Language(tied=True), mapping="single")
        generations.clear()
        model(torch.randint(31, (2, 6)))
        assert sorted(generations) == sorted(set(generations))
        assert model.head.weight.equal(model.embedding.weight)
        with pytest.raises(shapeshift.ConfigError, match="matches no"):
            compressed(Language(), exclude=["tail"])

    def test_tie_weights_of_transformers_keeps_the_tie(self) -> None:
        model, tokens = compressed(tiny_gpt2()), torch.randint(48, (2, 8))
        expected = model(tokens).logits
        model.tie_weights()
        assert_close(model(tokens).logits, expected, "identical")
        shapeshift.materialize(model)
        assert model.lm_head.weight is model.transformer.wte.weight
        model.tie_weights()
        assert_close(model(tokens).logits, expected, "identical")

    def test_generation_of_text_equals_that_of_the_plain_model(self) -> None:
        model, tokens = compressed(tiny_gpt2()).eval(), torch.randint(3, 48, (2, 4))
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        options["attention_mask"] = torch.ones_like(tokens)
        found = model.generate(tokens, **options)
        assert found.shape[1] > tokens.shape[1]
        assert found.equal(shapeshift.materialize(model).generate(tokens, **options))

    def test_resize_token_embeddings_is_refused_by_name(self) -> None:
        model = compressed(tiny_gpt2())
        with pytest.raises(GeneratedWeightError, match=r"before shapeshift\.compress"):
            model.resize_token_embeddings(60)
        shapeshift.materialize(model).resize_token_embeddings(60)
        assert model.get_input_embeddings().weight.shape == (60, 16)

    def test_save_pretrained_writes_what_load_state_dict_reads(self, tmp_path: Path) -> None:
        model, tokens = compressed(tiny_gpt2()), torch.randint(48, (2, 8))
        model.save_pretrained(tmp_path)
        other = compressed(tiny_gpt2())
        other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
        assert_close(other(tokens).logits, model(tokens).logits, "identical")

    def test_save_pretrained_after_materialize_is_plain(self, tmp_path: Path) -> None:
        model, tokens = compressed(tiny_gpt2()), torch.randint(48, (2, 8))
        expected = model(tokens).logits
        shapeshift.materialize(model).save_pretrained(tmp_path)
        assert_close(transformers.GPT2LMHeadModel.from_pretrained(tmp_path)(tokens).logits, expected, "identical")
