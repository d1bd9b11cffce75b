"""Compressed adapters under DistributedDataParallel: as one process on the joint batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import shapeshift
import shapeshift.integrations.peft
from tests.integrations.test_peft_adapters import METHODS, llama, logits
from tests.joint_batch import share
from tests.processes import WORLD, needs_gloo, spawn
from tests.tolerances import assert_close

STEPS = 2
BATCHES = torch.randint(1, 40, (STEPS, 2 * WORLD, 6), generator=torch.Generator().manual_seed(0))


def compressed(method: str) -> Any:
    torch.manual_seed(1)
    return shapeshift.compress(peft.get_peft_model(llama(), METHODS[method]()), 400, seed=0)


def checkpointing(use_reentrant: bool) -> Any:
    model = compressed("lora")
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    return model.train()


def beside_a_frozen_one() -> Any:
    model = compressed("lora")
    model.add_adapter("reference", peft.LoraConfig(**METHODS["lora"]().to_dict()))
    peft.set_peft_model_state_dict(model, peft.get_peft_model_state_dict(model), "reference")
    model.set_adapter("default")
    return model


# The models, and the options of DistributedDataParallel.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (lambda: compressed("lora"), {}),
    "lokr": (lambda: compressed("lokr"), {"gradient_as_bucket_view": True}),
    "dora, unused": (lambda: compressed("dora"), {"find_unused_parameters": True}),
    "static graph": (lambda: compressed("lora"), {"static_graph": True}),
    "checkpointing": (lambda: checkpointing(use_reentrant=False), {}),
    "reentrant, static graph": (lambda: checkpointing(use_reentrant=True), {"static_graph": True}),
    "two adapters": (beside_a_frozen_one, {}),
}


def trained(model: nn.Module, batches: Tensor) -> dict[str, Tensor]:
    """Train on each of the batches for a step; return the parameters that train."""
    optimizer = torch.optim.SGD([found for found in model.parameters() if found.requires_grad], lr=0.5)
    for tokens in batches:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    named = model.named_parameters()
    return {name.removeprefix("module."): found.detach() for name, found in named if found.requires_grad}


def train_in_processes(rank: int, folder: Path) -> None:
    for case, (build, options) in CASES.items():
        wrapped = DistributedDataParallel(build(), **options)
        found = {"parameters": trained(wrapped, torch.stack([share(tokens) for tokens in BATCHES]))}
        if rank == 0:
            wrapped.module.save_pretrained(folder / case)
        torch.save({**found, "logits": logits(wrapped.module.eval())}, folder / f"{case} {rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all cases in the processes of one group."""
    folder = tmp_path_factory.mktemp("adapters")
    spawn(train_in_processes, folder)
    return folder


@needs_gloo
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_trains_as_one_process_on_the_joint_batch(case: str, folder: Path) -> None:
    found = [torch.load(folder / f"{case} {rank}.pt") for rank in range(WORLD)]
    assert_close(found[1], found[0], "identical")
    model = CASES[case][0]()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = trained(model, BATCHES)
    assert_close(found[0]["parameters"], expected, "reordered")
    assert max((expected[name] - before[name]).abs().max().item() for name in expected) > 1e-3
    loaded = peft.PeftModel.from_pretrained(llama(), folder / case)
    assert_close(logits(loaded), found[0]["logits"], "identical")
    assert_close(logits(loaded), logits(model.eval()), "reordered")
