"""PEFT's methods on a compressed base model, and compressed adapters: as on the plain model of the same weights."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import GeneratedWeightError, ShapeshiftWarning
from shapeshift.surgery.roots import require_shared
from tests.integrations.test_transformers import gpt2, words
from tests.tolerances import assert_close

CAUSAL = {"task_type": "CAUSAL_LM"}
LORA = {**CAUSAL, "target_modules": ["c_attn"], "fan_in_fan_out": True}


def pair() -> tuple[Any, Any]:
    """Return a compressed model, and the plain one of the same weights."""
    model = shapeshift.compress(gpt2(), "50%").eval()
    return model, shapeshift.materialize(copy.deepcopy(model))


def adapted_pair(config: Any) -> tuple[Any, Any]:
    models = pair()
    found = []
    for model in models:
        torch.manual_seed(3)
        found.append(peft.get_peft_model(model, copy.deepcopy(config)).train(False))
        with torch.no_grad():
            for parameter in found[-1].parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
    return found[0], found[1]


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


METHODS: dict[str, Any] = {
    "lora": peft.LoraConfig(**LORA),
    "dora": peft.LoraConfig(**LORA, use_dora=True),
    "adalora": peft.AdaLoraConfig(**LORA, total_step=10),
    "ia3": peft.IA3Config(**CAUSAL, target_modules=["c_attn"], feedforward_modules=[], fan_in_fan_out=True),
    "prompt tuning": peft.PromptTuningConfig(**CAUSAL, num_virtual_tokens=3),
    "p-tuning": peft.PromptEncoderConfig(**CAUSAL, num_virtual_tokens=3, encoder_hidden_size=16),
    "prefix": peft.PrefixTuningConfig(**CAUSAL, num_virtual_tokens=3),
}


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # PEFT 0.21 under transformers 5.24
@pytest.mark.parametrize("method", METHODS)
def test_outputs_and_gradients_are_those_on_the_plain_model(method: str) -> None:
    model, plain = adapted_pair(METHODS[method])
    assert trainable(model).keys() == trainable(plain).keys()
    tokens = words()[0]
    losses = [found(input_ids=tokens, labels=tokens).loss for found in (model, plain)]
    assert_close(losses[0], losses[1], "reordered")
    for loss in losses:
        loss.backward()
    expected = {name: parameter.grad for name, parameter in trainable(plain).items()}
    assert_close({name: parameter.grad for name, parameter in trainable(model).items()}, expected, "reordered gradient")
    assert all(parameter.grad is None for parameter in require_shared(model).parameters())


class TestCompressedAdapters:
    @staticmethod
    def model(kind: Any) -> Any:
        base = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        model = peft.get_peft_model(base, kind(target_modules=["0", "2"]))
        return shapeshift.compress(model, "60%")

    @pytest.mark.parametrize("kind", [peft.LoraConfig, peft.LoHaConfig, peft.LoKrConfig])
    def test_are_disabled_and_enabled(self, kind: Any) -> None:
        model = self.model(kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1
        inputs = torch.randn(4, 16)
        on = model(inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with model.disable_adapter():
                off = model(inputs)
            again = model(inputs)
        assert (on - off).abs().max() > 1e-3
        assert_close(again, on, "identical")
        again.sum().backward()
        assert all(parameter.grad is not None for parameter in require_shared(model).parameters())


class TestRequiresGradOfOneWeight:
    @staticmethod
    def model() -> Any:
        return shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), "60%")

    @pytest.mark.parametrize("set_to", [Tensor.requires_grad_, lambda weight, to: setattr(weight, "requires_grad", to)])
    def test_stops_and_resumes_its_gradient(self, set_to: Any) -> None:
        model, inputs = self.model(), torch.randn(4, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        set_to(model[0].weight, False)
        assert not model[0].weight.requires_grad
        assert model[1].weight.requires_grad
        with pytest.warns(ShapeshiftWarning, match=r"0\.weight is False.*1\.weight trains"):
            assert_close(model(inputs), plain(inputs), "reordered")
        model.zero_grad()
        model(inputs)[0].sum().backward()
        held = [parameter.grad.clone() for parameter in require_shared(model).parameters()]
        only = copy.deepcopy(model)
        set_to(only[0].weight, True)
        set_to(only[1].weight, True)
        only.zero_grad()
        only(inputs)[0].sum().backward()
        free = [parameter.grad for parameter in require_shared(only).parameters()]
        assert any(not grad.equal(other) for grad, other in zip(held, free, strict=True))

    def test_of_all_of_them_stops_every_gradient(self) -> None:
        model = self.model()
        for layer in model:
            layer.weight.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(torch.randn(4, 16)).sum().backward()
        assert all(parameter.grad is None for parameter in require_shared(model).parameters())


def test_a_weight_that_is_assigned_to_itself_stays() -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), "60%")
    model[0].weight = model[0].weight  # as PEFT does when it takes an adapter off
    with pytest.raises(GeneratedWeightError, match="cannot be assigned"):
        model[0].weight = model[1].weight


def test_attention_of_torch_refuses_lora_with_the_way_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)

    model = shapeshift.compress(Net(), "60%")
    with pytest.raises(GeneratedWeightError, match=r"attention\.in_proj_weight .* deleted\. .*materialize.*exclude="):
        peft.get_peft_model(model, peft.LoraConfig(target_modules=["attention"]))


def test_an_adapter_is_loaded_beside_others_and_deleted(tmp_path: Path) -> None:
    model, plain = adapted_pair(METHODS["lora"])
    tokens = words()[0]
    outputs = []
    for name, found in (("compressed", model), ("plain", plain)):
        found.save_pretrained(tmp_path / name)
        found.load_adapter(tmp_path / name, "second")
        found.set_adapter("second")
        outputs.append(found(tokens).logits)
        found.delete_adapter("default")
        outputs.append(found(tokens).logits)
        with found.disable_adapter():
            outputs.append(found(tokens).logits)
    for place in range(3):
        assert_close(outputs[place], outputs[place + 3], "reordered")
    assert_close(outputs[0], outputs[1], "identical")


class TestTokenAdapters:
    INDICES = (1, 5)

    @pytest.mark.parametrize("exclude", [[], ["*wte*"]], ids=["generated", "plain"])
    @pytest.mark.parametrize("config", [peft.LoraConfig, peft.TrainableTokensConfig])
    def test_reach_the_head_that_is_tied(self, config: Any, exclude: list[str]) -> None:
        model = shapeshift.compress(gpt2(), "60%", exclude=exclude).eval()
        plain = shapeshift.materialize(copy.deepcopy(model))
        chosen: dict[str, Any] = {"token_indices": list(self.INDICES)}
        if config is peft.LoraConfig:
            chosen = {**LORA, "trainable_token_indices": list(self.INDICES)}
        tokens, found = torch.tensor([[1, 2, 5, 7]]), []
        for base in (model, plain):
            torch.manual_seed(3)
            adapted = peft.get_peft_model(base, config(**chosen)).eval()
            with torch.no_grad():
                for parameter in adapted.parameters():
                    if parameter.requires_grad:
                        parameter += torch.randn_like(parameter)
            outputs = adapted(input_ids=tokens, labels=tokens)
            outputs.loss.backward()
            gradients = {name: parameter.grad for name, parameter in trainable(adapted).items()}
            with adapted.disable_adapter():
                found.append((outputs.logits, adapted(tokens).logits, gradients))
        assert_close(found[0][:2], found[1][:2], "reordered")
        assert_close(found[0][2], found[1][2], "reordered gradient")
        assert (found[0][0] - found[0][1])[..., list(self.INDICES)].abs().max() > 1e-2

    def test_are_saved_and_loaded(self, tmp_path: Path) -> None:
        model = shapeshift.compress(gpt2(), "60%").eval()
        fresh, tokens = copy.deepcopy(model), words()[0]
        adapted = peft.get_peft_model(model, peft.LoraConfig(**LORA, trainable_token_indices=list(self.INDICES))).eval()
        with torch.no_grad():
            for parameter in trainable(adapted).values():
                parameter += torch.randn_like(parameter)
        adapted.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        assert_close(loaded(tokens).logits, adapted(tokens).logits, "identical")

    def test_no_tie_is_found_where_there_is_none(self) -> None:
        model = shapeshift.compress(gpt2(tie_word_embeddings=False), "60%")
        assert model._tied_weights_keys == type(gpt2())._tied_weights_keys
        assert shapeshift.materialize(model)._tied_weights_keys is type(gpt2())._tied_weights_keys


class TestLayersThatAreTrainedWhole:
    @staticmethod
    def net() -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(16, 16)
                self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
                self.head = nn.Linear(16, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.body(self.first(x)))  # type: ignore[no-any-return]

        return Net()

    @pytest.mark.parametrize("layer", ["head", "body"])
    def test_are_refused_where_they_are_generated(self, layer: str) -> None:
        model = shapeshift.compress(self.net(), "60%")
        config = peft.LoraConfig(target_modules=["first"], modules_to_save=[layer])
        with pytest.raises(shapeshift.ModelError, match=rf"{layer}\S*weight \(\d+, 16\) .*exclude=.*modules_to_save"):
            peft.get_peft_model(model, config)

    @pytest.mark.parametrize("layer", ["head", "body"])
    def test_are_trained_where_they_are_plain(self, layer: str, tmp_path: Path) -> None:
        model, x = shapeshift.compress(self.net(), "80%", exclude=[f"{layer}*"]), torch.randn(8, 16)
        fresh = copy.deepcopy(model)
        plain = shapeshift.materialize(copy.deepcopy(model))
        config = peft.LoraConfig(target_modules=["first"], modules_to_save=[layer])
        found = []
        for base in (model, plain):
            torch.manual_seed(1)
            adapted = peft.get_peft_model(base, copy.deepcopy(config))
            optimizer = torch.optim.SGD(trainable(adapted).values(), 0.1)
            adapted(x).square().mean().backward()
            optimizer.step()
            found.append(adapted)
        assert_close(found[0](x), found[1](x), "reordered")
        found[0].save_pretrained(tmp_path)
        assert_close(peft.PeftModel.from_pretrained(fresh, tmp_path)(x), found[0](x), "identical")

    def test_a_frozen_copy_of_a_part_lists_its_parameters(self) -> None:
        model = shapeshift.compress(self.net(), "60%").requires_grad_(False)
        assert len(list(copy.deepcopy(model.body).parameters())) == 2


class TestTargetParameters:
    @pytest.mark.parametrize("targets", [["first.weight"], ["weight"], ["head.weight", "first.weight"]])
    def test_that_are_generated_are_refused(self, targets: list[str]) -> None:
        model = shapeshift.compress(TestLayersThatAreTrainedWhole.net(), "60%", exclude=["head.weight"])
        with pytest.raises(
            GeneratedWeightError, match=r"first\.weight \(16, 16\) .* target_modules=, .*exclude=.*materia"
        ):
            peft.get_peft_model(model, peft.LoraConfig(target_modules=[], target_parameters=targets))

    def test_that_are_not_generated_are_adapted(self) -> None:
        model = shapeshift.compress(TestLayersThatAreTrainedWhole.net(), "60%", exclude=["head.weight"])
        config = peft.LoraConfig(target_modules=[], target_parameters=["head.weight"])
        names = trainable(peft.get_peft_model(model, config))
        assert {name.split(".")[2] for name in names} == {"head"}
