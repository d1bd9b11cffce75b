"""A compressed model of transformers under another head: what the two classes share is loaded, and the rest is new."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import shapeshift
import shapeshift.integrations.transformers
from shapeshift.errors import CheckpointError
from shapeshift.generators import GENERATORS
from shapeshift.surgery.attached import is_generated
from shapeshift.surgery.roots import require_root, require_shared
from tests.integrations.test_transformers import bert, gpt2, llama, logits, t5, trained, vit, words
from tests.tolerances import assert_close

# From the class that is saved to the one that it is loaded as.
HEADS: list[tuple[Any, str]] = [
    (bert, "BertForSequenceClassification"),
    (bert, "BertForPreTraining"),
    (bert, "BertModel"),
    (lambda: bert("SequenceClassification"), "BertForMaskedLM"),
    (lambda: bert(""), "BertForMaskedLM"),
    (lambda: bert(""), "BertForTokenClassification"),
    (gpt2, "GPT2Model"),
    (gpt2, "GPT2ForSequenceClassification"),
    (lambda: gpt2().transformer, "GPT2LMHeadModel"),
    (lambda: transformers.GPT2ForSequenceClassification(gpt2().config), "GPT2LMHeadModel"),
    (llama, "LlamaForSequenceClassification"),
    (t5, "T5EncoderModel"),
    (vit, "ViTModel"),
]


def saved_both(model: Any, folder: Path) -> None:
    """Save a compressed model, and the plain model of the same weights."""
    model.save_pretrained(folder / "compressed")
    shapeshift.materialize(copy.deepcopy(model)).save_pretrained(folder / "plain")


def loaded_both(kind: str, folder: Path, **options: Any) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
    options["output_loading_info"] = True
    load = getattr(transformers, kind).from_pretrained
    return (*load(folder / "compressed", **options), *load(folder / "plain", **options))


def shared_part(model: Any, info: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a plain model that were loaded."""
    new = info["missing_keys"] | {name for name, *_ in info["mismatched_keys"]}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in new}


@pytest.mark.parametrize(("build", "kind"), HEADS, ids=[f"{number}-{kind}" for number, (_, kind) in enumerate(HEADS)])
def test_the_shared_part_is_loaded_as_from_a_plain_checkpoint(build: Any, kind: str, tmp_path: Path) -> None:
    saved_both(trained(shapeshift.compress(build(), "50%")), tmp_path)
    model, found, plain, expected = loaded_both(kind, tmp_path)
    assert found == expected
    assert shapeshift.is_compressed(model)
    assert not any(is_generated(model, name) for name in expected["missing_keys"])
    assert_close(
        shared_part(shapeshift.materialize(copy.deepcopy(model)), found), shared_part(plain, expected), "identical"
    )
    # The result is a compressed model like any other: it trains, and is saved and loaded.
    inputs = {"pixel_values": torch.randn(1, 3, 16, 16)} if kind == "ViTModel" else {"input_ids": words()[0][:1]}
    model.train()(**inputs)[0].square().mean().backward()
    assert all(parameter.grad.any() for parameter in require_shared(model).parameters())
    trained(model).save_pretrained(tmp_path / "again")
    again = getattr(transformers, kind).from_pretrained(tmp_path / "again")
    assert_close(again(**inputs)[0], model(**inputs)[0], "identical")
    root = require_root(model)
    shapeshift.save(root, tmp_path / "ours")
    again = shapeshift.load(tmp_path / "ours", shapeshift.materialize(again).get_submodule(_path_of(root, model)))
    assert_close(dict(again.state_dict()), dict(root.state_dict()), "identical")


def _path_of(module: Any, model: Any) -> str:
    return next(path for path, found in model.named_modules() if found is module)


@pytest.mark.parametrize("combine", list(GENERATORS))
def test_by_every_generator(combine: str, tmp_path: Path) -> None:
    saved_both(trained(shapeshift.compress(bert(), "60%", combine=combine)), tmp_path)
    model, found, plain, expected = loaded_both("BertForSequenceClassification", tmp_path)
    assert found == expected
    assert_close(shared_part(shapeshift.materialize(model), found), shared_part(plain, expected), "identical")


def test_the_new_head_is_dense_and_counted(tmp_path: Path) -> None:
    shapeshift.compress(bert(), "50%").save_pretrained(tmp_path)
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
    plan, report = require_shared(model).plan, shapeshift.report(model)
    head = 7 * 16 + 7 + 16 * 16 + 16  # the classifier and the pooler
    assert report.parameters == plan.total == shapeshift.count_parameters(model) <= plan.budget
    assert plan.dense == shapeshift.count_parameters(bert("SequenceClassification", num_labels=7))
    before = require_shared(shapeshift.compress(bert(), "50%")).plan
    lost = sum(parameter.numel() for name, parameter in bert().named_parameters() if "cls" in name and "bias" in name)
    lost += 2 * 16 - 16  # the head's norm, of which one tensor is a bias
    assert plan.untouched == before.untouched - lost + head
    assert plan.budget - plan.untouched == before.budget - before.untouched
    assert str(report)


def test_groups_of_the_other_head_are_left_out(tmp_path: Path) -> None:
    mapping = {name: "head" if "transform" in name else "rest" for name, _ in bert().named_parameters()}
    mapping = {weight.name: mapping[weight.name] for weight in shapeshift.plan_compression(bert(), "50%").weights}
    shapeshift.compress(bert(), "50%", mapping=shapeshift.Assignment(mapping)).save_pretrained(tmp_path)
    model, found = transformers.BertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(require_shared(model)) == {"rest"}
    assert "cls.predictions.transform.dense.weight" in found["unexpected_keys"]


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    shapeshift.compress(model, "60%").save_pretrained(tmp_path)
    for kind in ("BertModel", "BertForSequenceClassification"):
        loaded = getattr(transformers, kind).from_pretrained(tmp_path)
        frozen = [name for name, parameter in loaded.base_model.named_parameters() if not parameter.requires_grad]
        assert frozen == [name for name, _ in loaded.base_model.named_parameters() if name.startswith("embeddings.")]


class TestAnotherNumberOfLabels:
    def test_is_an_error_of_transformers(self, tmp_path: Path) -> None:
        saved_both(shapeshift.compress(bert("SequenceClassification", num_labels=3), "50%"), tmp_path)
        for folder in ("plain", "compressed"):
            with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
                transformers.BertForSequenceClassification.from_pretrained(tmp_path / folder, num_labels=5)

    def test_makes_the_layer_new_where_asked(self, tmp_path: Path) -> None:
        saved_both(trained(shapeshift.compress(bert("SequenceClassification", num_labels=3), "50%")), tmp_path)
        for kind in ("BertForSequenceClassification", "BertForTokenClassification"):
            model, found, plain, expected = loaded_both(kind, tmp_path, num_labels=5, ignore_mismatched_sizes=True)
            assert found == expected
            assert {name for name, *_ in found["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
            assert model.classifier.weight.std() > 0
            assert_close(shared_part(shapeshift.materialize(model), found), shared_part(plain, expected), "identical")


def test_what_shares_nothing_is_refused(tmp_path: Path) -> None:
    shapeshift.compress(bert(), "50%").save_pretrained(tmp_path)
    config = transformers.GPT2Config(vocab_size=48, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    with pytest.raises(CheckpointError, match="has another architecture than the GPT2LMHeadModel"):
        transformers.GPT2LMHeadModel.from_pretrained(tmp_path, config=config)


def test_a_head_that_is_tied_to_a_compressed_base_model(tmp_path: Path) -> None:
    model = bert("SequenceClassification")
    shapeshift.compress(model.bert, "50%")
    saved_both(trained(model), tmp_path)
    loaded, found, plain, expected = loaded_both("BertForMaskedLM", tmp_path)
    assert found == expected
    assert is_generated(loaded, "cls.predictions.decoder.weight")
    assert_close(shared_part(shapeshift.materialize(loaded), found), shared_part(plain, expected), "identical")


def test_a_pipeline_for_features_reads_hidden_states(tmp_path: Path) -> None:
    saved_both(trained(shapeshift.compress(bert(), "50%")), tmp_path)
    tokens = words()[0]
    hidden = [transformers.AutoModel.from_pretrained(tmp_path / name)(tokens)[0] for name in ("compressed", "plain")]
    assert hidden[0].shape == (2, 7, 16)
    assert_close(hidden[0], hidden[1], "identical")


class TestPrecision:
    """T5 keeps the output projections of its feed-forward layers in float32 when it is loaded in float16."""

    def test_weights_of_a_group_of_their_own_stay_in_float32(self, tmp_path: Path) -> None:
        plan = shapeshift.plan_compression(t5(), "60%")
        mapping = {weight.name: "wo" if ".wo." in weight.name else "rest" for weight in plan.weights}
        saved_both(trained(shapeshift.compress(t5(), "60%", mapping=shapeshift.Assignment(mapping))), tmp_path)
        model, _, plain, _ = loaded_both("T5ForConditionalGeneration", tmp_path, dtype=torch.float16)
        assert {name: tensor.dtype for name, tensor in shapeshift.materialize(model).state_dict().items()} == {
            name: tensor.dtype for name, tensor in plain.state_dict().items()
        }
        assert model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32

    def test_weights_that_share_with_others_are_refused(self, tmp_path: Path) -> None:
        shapeshift.compress(t5(), "60%").save_pretrained(tmp_path)
        with pytest.raises(
            CheckpointError, match=r"wo\.weight stays in torch\.float32 .* group of their own by mapping="
        ):
            transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)


class TestUntiedByHand:
    """The configuration still says that the weights are tied. transformers follows the checkpoint."""

    @staticmethod
    def untied() -> Any:
        model = gpt2()
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        return model

    @pytest.mark.parametrize("exclude", [[], ["lm_head"], ["transformer.wte"], ["lm_head", "transformer.wte"]], ids=str)
    def test_is_loaded_as_it_was(self, exclude: list[str], tmp_path: Path) -> None:
        model, inputs = trained(shapeshift.compress(self.untied(), "80%", exclude=exclude)), words()
        model.save_pretrained(tmp_path)
        loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")
        assert not loaded.lm_head.weight.equal(loaded.transformer.wte.weight)
        loaded.save_pretrained(tmp_path)
        loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
        assert_close(logits(loaded, inputs), logits(model, inputs), "identical")
