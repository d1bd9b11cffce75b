"""Methods of PEFT whose adapters are compressed: they start as before, train, switch off, and are saved and merged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import peft
import torch

import shapeshift
import shapeshift.integrations.peft
from benchmarks.compatibility.check import Network, check, equal, images

GROUP = "PEFT methods, with the adapter compressed"
TARGETS: dict[str, Any] = {"target_modules": ["hidden", "head"]}
RANK: dict[str, Any] = {**TARGETS, "r": 4}
SQUARE: dict[str, Any] = {"target_modules": ["hidden"]}
CONFIGS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(**RANK),
    "rsLoRA": lambda: peft.LoraConfig(**RANK, use_rslora=True),
    "DoRA": lambda: peft.LoraConfig(**RANK, use_dora=True),
    "LoRA, PiSSA": lambda: peft.LoraConfig(**RANK, init_lora_weights="pissa"),
    "LoRA, OLoRA": lambda: peft.LoraConfig(**RANK, init_lora_weights="olora"),
    "LoRA, orthogonal": lambda: peft.LoraConfig(**RANK, init_lora_weights="orthogonal"),
    "LoRA, modules_to_save": lambda: peft.LoraConfig(**SQUARE, r=4, modules_to_save=["head"]),
    "LoRA, target_parameters": lambda: peft.LoraConfig(target_modules=[], target_parameters=["hidden.weight"], r=4),
    "AdaLoRA": lambda: peft.AdaLoraConfig(**TARGETS, init_r=4, total_step=10),
    "LoHa": lambda: peft.LoHaConfig(**RANK),
    "LoKr": lambda: peft.LoKrConfig(**RANK),
    "OFT": lambda: peft.OFTConfig(**SQUARE, r=0, oft_block_size=4),
    "HRA": lambda: peft.HRAConfig(**SQUARE, r=4),
    "HiRA": lambda: peft.HiraConfig(**RANK),
    "MiSS": lambda: peft.MissConfig(**SQUARE, r=4),
    "GraLoRA": lambda: peft.GraloraConfig(**SQUARE, r=4, gralora_k=2),
    "VB-LoRA": lambda: peft.VBLoRAConfig(**SQUARE, r=4, num_vectors=16, vector_length=8, topk=2),
    "IA3": lambda: peft.IA3Config(**TARGETS, feedforward_modules=["head"]),
    "VeRA": lambda: peft.VeraConfig(**RANK),
    "Uni-LoRA": lambda: peft.UniLoraConfig(**SQUARE, r=4, theta_d_length=64),
    "FourierFT": lambda: peft.FourierFTConfig(**TARGETS, n_frequency=50),
    "SHiRA": lambda: peft.ShiraConfig(**SQUARE, r=4),
}


def _network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def _adapted(make: Callable[[], Any]) -> None:
    x = images()
    torch.manual_seed(1)
    model = peft.get_peft_model(_network(), make()).eval()  # type: ignore[arg-type]
    starts = model(x)
    with model.disable_adapter():
        base = model(x)
    shapeshift.compress(model, "60%", seed=0)
    if torch.allclose(starts, base, rtol=1e-4, atol=1e-5):
        equal(model.eval()(x), base)
    optimizer = torch.optim.Adam([found for found in model.parameters() if found.requires_grad], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    changed = model(x)
    assert not torch.allclose(changed, base)
    with model.disable_adapter():
        equal(model(x), base)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(_network(), folder)  # type: ignore[arg-type]
    assert shapeshift.is_compressed(loaded)
    equal(loaded(x), changed)
    equal(model.merge_and_unload()(x), changed)


def _register(name: str, make: Callable[[], Any]) -> None:
    @check(GROUP, name)
    def _method() -> None:
        _adapted(make)


for _name, _make in CONFIGS.items():
    _register(_name, _make)
