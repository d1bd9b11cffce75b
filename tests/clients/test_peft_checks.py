"""The checks that PEFT runs on custom models, on base models that are compressed after they are built."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from tests.clients.suite import Check, table
from tests.tolerances import assert_close


class Net(nn.Module):
    """An embedding, a convolution and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.first = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.conv(self.words(tokens).transpose(1, 2)).relu().mean(2)
        return self.head(self.first(hidden).relu())  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Method:
    """A method of PEFT, and the layers of the model that it adapts."""

    config: Any
    options: dict[str, Any]

    def __call__(self) -> Any:
        return self.config(**self.options)


LINEAR = {"target_modules": ["first"]}
METHODS = {
    "lora": Method(peft.LoraConfig, LINEAR),
    "lora of all": Method(peft.LoraConfig, {"target_modules": ["words", "conv", "first"]}),
    "lora with a bias": Method(peft.LoraConfig, {**LINEAR, "bias": "all"}),
    "dora": Method(peft.LoraConfig, {**LINEAR, "use_dora": True}),
    "adalora": Method(peft.AdaLoraConfig, {**LINEAR, "total_step": 10}),
    "loha": Method(peft.LoHaConfig, {"target_modules": ["conv", "first"]}),
    "lokr": Method(peft.LoKrConfig, {"target_modules": ["conv", "first"]}),
    "ia3": Method(peft.IA3Config, {**LINEAR, "feedforward_modules": []}),
    "oft": Method(peft.OFTConfig, {**LINEAR, "r": 2, "oft_block_size": 0}),
    "vera": Method(peft.VeraConfig, {**LINEAR, "r": 4}),
    "hra": Method(peft.HRAConfig, {**LINEAR, "r": 4}),
    "fourier": Method(peft.FourierFTConfig, {**LINEAR, "n_frequency": 10}),
}

TOKENS = torch.randint(32, (5, 6), generator=torch.Generator().manual_seed(1))


def moved(model: Any) -> Any:
    """Move every trainable parameter away from where it starts, where many adapters change nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def only_adapter_parameters_change(base: Any, method: Method, folder: Path) -> None:
    model = peft.get_peft_model(base, method())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moved(model)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(TOKENS).square().mean().backward()
        optimizer.step()
    bias = getattr(model.peft_config["default"], "bias", "none")
    for name, parameter in model.named_parameters():
        adapter = model.prefix in name or (bias == "all" and name.endswith("bias"))
        assert parameter.requires_grad == (adapter and parameter.requires_grad), name
        if not adapter:
            assert parameter.equal(before[name]), name


def save_and_load(base: Any, method: Method, folder: Path, **options: Any) -> None:
    fresh = copy.deepcopy(base)
    model = moved(peft.get_peft_model(base, method()))
    expected = model(TOKENS)
    model.save_pretrained(folder)
    assert (folder / "adapter_model.safetensors").stat().st_size > 100
    loaded = peft.PeftModel.from_pretrained(fresh, folder, **options).eval()
    assert_close(loaded(TOKENS), expected, "reordered")
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if not name.endswith("bias")]


def low_cpu_mem_usage(base: Any, method: Method, folder: Path) -> None:
    save_and_load(base, method, folder, low_cpu_mem_usage=True)


def several_adapters(base: Any, method: Method, folder: Path) -> None:
    model = moved(peft.get_peft_model(base, method()))
    first = model(TOKENS)
    model.add_adapter("second", method())
    model.set_adapter("second")
    second = moved(model)(TOKENS)
    assert (first - second).abs().max() > 1e-4
    model.set_adapter("default")
    assert_close(model(TOKENS), first, "identical")
    model.set_adapter("second")
    assert_close(model(TOKENS), second, "identical")


def disabling(base: Any, method: Method, folder: Path) -> None:
    plain = base.eval()(TOKENS)
    model = moved(peft.get_peft_model(base, method()))
    adapted = model(TOKENS)
    assert (adapted - plain).abs().max() > 1e-4
    with model.disable_adapter():
        assert_close(model(TOKENS), plain, "reordered")
    assert_close(model(TOKENS), adapted, "identical")


def deleting(base: Any, method: Method, folder: Path) -> None:
    plain = base.eval()(TOKENS)
    model = moved(peft.get_peft_model(base, method()))
    model.add_adapter("second", method())
    model.set_adapter("second")
    model.delete_adapter("default")
    assert list(model.peft_config) == ["second"]
    model(TOKENS)
    with model.disable_adapter():
        assert_close(model(TOKENS), plain, "reordered")


def unloading(base: Any, method: Method, folder: Path) -> None:
    plain = base.eval()(TOKENS)
    keys = list(base.state_dict())
    again = moved(peft.get_peft_model(base, method())).unload()
    assert list(again.state_dict()) == keys
    assert_close(again(TOKENS), plain, "identical")


def merging(base: Any, method: Method, folder: Path) -> None:
    model = moved(peft.get_peft_model(base, method()))
    expected = model(TOKENS)
    assert_close(model.merge_and_unload()(TOKENS), expected, "reordered")


def copying(base: Any, method: Method, folder: Path) -> None:
    model = moved(peft.get_peft_model(base, method()))
    assert_close(copy.deepcopy(model)(TOKENS), model(TOKENS), "identical")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        only_adapter_parameters_change,
        save_and_load,
        low_cpu_mem_usage,
        several_adapters,
        disabling,
        deleting,
        unloading,
        merging,
        copying,
    )
}

# Checks that a compressed base model refuses.
EXPECTED = {("merging", "*"): "an adapter cannot be written into generated weights: materialize first"}

# Biases are trained in place, and stay when the adapter is disabled, deleted or unloaded. AdaLoRA trains one adapter.
SKIPPED = {
    *((check, "lora with a bias") for check in ("several_adapters", "disabling", "deleting", "unloading")),
    *((check, "adalora") for check in ("several_adapters", "deleting")),
}


@table(CHECKS, METHODS, EXPECTED, SKIPPED)
def test_as_on_a_plain_model(check: Check, build: Method, form: Any, tmp_path: Path) -> None:
    check(form(Net()), build, tmp_path)
