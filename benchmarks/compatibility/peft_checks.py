"""Methods of PEFT on a compressed base model: the first output is the base's, adapters train, merge and switch off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
from torch import nn

from benchmarks.compatibility.check import check, images, pair

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
    @check("PEFT methods on a compressed base", name)
    def _method() -> None:
        _adapted(make())


for _name, _make in CONFIGS.items():
    _register(_name, _make)
