"""Methods of PEFT on a compressed base model: the first output is the base's, adapters train, and switch off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import torch
import transformers
from torch import nn

import shapeshift
from benchmarks.compatibility.check import check, equal, images, pair

GROUP = "PEFT methods on a compressed base"
TARGETS = ["hidden", "head"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(target_modules=TARGETS, r=2),
    "DoRA": lambda: peft.LoraConfig(target_modules=TARGETS, r=2, use_dora=True),
    "rsLoRA": lambda: peft.LoraConfig(target_modules=TARGETS, r=2, use_rslora=True),
    "LoHa": lambda: peft.LoHaConfig(target_modules=TARGETS, r=2),
    "LoKr": lambda: peft.LoKrConfig(target_modules=TARGETS, r=2),
    "OFT": lambda: peft.OFTConfig(target_modules=["hidden"], r=0, oft_block_size=4),
    "IA3": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=["head"]),
    "VeRA": lambda: peft.VeraConfig(target_modules=["hidden"], r=2),
    "modules_to_save": lambda: peft.LoraConfig(target_modules=["hidden"], modules_to_save=["head"], r=2),
    "target_parameters": lambda: peft.LoraConfig(target_modules=[], target_parameters=["hidden.weight"], r=2),
}
#: Methods for language models.
CAUSAL: dict[str, Any] = {"task_type": "CAUSAL_LM"}
LANGUAGE: dict[str, Callable[[], Any]] = {
    "trainable_token_indices, where embeddings are tied": lambda: peft.LoraConfig(
        **CAUSAL, target_modules=["c_attn"], fan_in_fan_out=True, trainable_token_indices=[1, 2]
    ),
    "TrainableTokens": lambda: peft.TrainableTokensConfig(**CAUSAL, token_indices=[1, 2], target_modules=["wte"]),
    "prompt tuning": lambda: peft.PromptTuningConfig(**CAUSAL, num_virtual_tokens=2),
    "p-tuning": lambda: peft.PromptEncoderConfig(**CAUSAL, num_virtual_tokens=2, encoder_hidden_size=16),
    "prefix tuning": lambda: peft.PrefixTuningConfig(**CAUSAL, num_virtual_tokens=2),
}


def _adapted(config: Any) -> None:
    compressed, _ = pair()
    x = images()
    expected = compressed.eval()(x)
    torch.manual_seed(1)
    model = peft.get_peft_model(compressed, config)  # type: ignore[arg-type]
    torch.testing.assert_close(model.eval()(x), expected, rtol=1e-4, atol=1e-5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
    frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(parameter.equal(before[name]) for name, parameter in frozen.items())
    changed = model(x)
    assert not torch.allclose(changed, expected)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), changed, rtol=1e-4, atol=1e-5)


def _register(name: str, make: Callable[[], Any]) -> None:
    @check(GROUP, name)
    def _method() -> None:
        _adapted(make())


def language_model() -> Any:
    """Return a small language model whose head is tied to its embeddings."""
    sizes: dict[str, Any] = {"vocab_size": 48, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def _adapted_language_model(config: Any) -> None:
    compressed = shapeshift.compress(language_model(), "60%", seed=0).eval()
    tokens, found = torch.tensor([[1, 2, 3, 4]]), []
    for base in (compressed, shapeshift.materialize(copy.deepcopy(compressed))):
        torch.manual_seed(1)
        model = peft.get_peft_model(base, copy.deepcopy(config)).eval()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter in trainable:
                parameter += torch.randn_like(parameter)
        outputs = model(input_ids=tokens, labels=tokens)
        found.append([outputs.logits, *torch.autograd.grad(outputs.loss, trainable)])
    equal(*found)


def _register_for_language(name: str, make: Callable[[], Any]) -> None:
    @check(GROUP, name)
    def _method() -> None:
        _adapted_language_model(make())


for _name, _make in CONFIGS.items():
    _register(_name, _make)

for _name, _make in LANGUAGE.items():
    _register_for_language(_name, _make)
