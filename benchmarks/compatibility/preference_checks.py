"""What loops that learn from preferences and rewards do with an adapter, as TRL's, where the adapter is compressed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

import shapeshift
import shapeshift.integrations.peft
from benchmarks.compatibility.check import check, equal

GROUP = "loops that learn from preferences or rewards, with LoRA compressed"
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def _base() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "max_position_embeddings": 24}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, eos_token_id=None)).eval()


def _pair(**options: Any) -> tuple[Any, Any]:
    """Return a model with a compressed adapter that is not at its start, and the plain one of the same weights."""
    torch.manual_seed(1)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4)
    model = shapeshift.compress(peft.get_peft_model(_base(), config), "60%", seed=0, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model, shapeshift.materialize(copy.deepcopy(model))


def _log_probs(model: Any) -> Tensor:
    logits = model(TOKENS).logits[:, :-1].log_softmax(-1)
    found: Tensor = logits.gather(-1, TOKENS[:, 1:, None]).sum((1, 2))
    return found


def _add_reference(model: Any) -> None:
    model.add_adapter("reference", copy.deepcopy(model.peft_config["default"]))
    peft.set_peft_model_state_dict(model, peft.get_peft_model_state_dict(model), "reference")
    model.set_adapter("default")


def _steps(model: Any, between: Callable[[Any], Any]) -> Tensor:
    """Train for some steps, each after something else, and return what the model says then."""
    optimizer = torch.optim.SGD([found for found in model.parameters() if found.requires_grad], 0.05)
    for _ in range(3):
        between(model)
        optimizer.zero_grad()
        (-_log_probs(model).mean()).backward()
        optimizer.step()
    return _log_probs(model).detach()


@check(GROUP, "the reference model by disable_adapter()")
def _disabled() -> None:
    model, plain = _pair()
    expected = _log_probs(model)
    with torch.no_grad(), model.disable_adapter():
        assert _log_probs(model).equal(_log_probs(_base()))
    assert _log_probs(model).equal(expected)
    equal(expected, _log_probs(plain))


@check(GROUP, "a second adapter as the reference, switched by set_adapter()")
def _switched() -> None:
    model, _ = _pair()
    alone = copy.deepcopy(model)
    before = _log_probs(model).detach()
    _add_reference(model)

    def switch(model: Any) -> None:
        model.set_adapter("reference")
        equal(_log_probs(model).detach(), before)
        model.set_adapter("default")

    equal(_steps(model, switch), _steps(alone, lambda model: None))
    switch(model)


@check(GROUP, "a reference that copies parameters by their names")
def _copied() -> None:
    model, _ = _pair()
    model.add_adapter("ref", model.peft_config["default"])


@check(GROUP, 'merged weights for a server, with mapping={"*": "lora_all"}')
def _merged() -> None:
    model, _ = _pair(mapping={"*": "lora_all"})
    alone = copy.deepcopy(model)

    def send(model: Any) -> None:
        expected, server = _log_probs(model), _base()
        names = {name for name, _ in server.named_parameters()}
        model.merge_adapter()
        sent = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if model.prefix not in name
        }
        model.unmerge_adapter()
        assert sent.keys() == names
        server.load_state_dict(sent, strict=False)
        equal(_log_probs(server), expected)

    equal(_steps(model, send), _steps(alone, lambda model: None))


@check(GROUP, "generate() between the steps")
def _generated() -> None:
    def generate(model: Any) -> Tensor:
        chosen: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
        found: Tensor = model.generate(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), **chosen)
        return found

    model, plain = _pair()
    alone = copy.deepcopy(model)
    equal(generate(model), generate(plain))
    equal(_steps(model, generate), _steps(alone, lambda model: None))


@check(GROUP, "gradient checkpointing with enable_input_require_grads()")
def _checkpointed() -> None:
    model, _ = _pair()
    alone = copy.deepcopy(model)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    model.train()
    equal(_steps(model, lambda model: None), _steps(alone, lambda model: None))


@check(GROUP, "autocast to bfloat16")
def _autocast() -> None:
    model, plain = _pair()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(_log_probs(model), _log_probs(plain), rtol=5e-2, atol=5e-2)
