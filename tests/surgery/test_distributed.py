"""Real runs of two processes: the gradients are those of one process with the joint batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import shapeshift
from tests.processes import WORLD, needs_gloo, spawn
from tests.tolerances import assert_close

pytestmark = needs_gloo


class Blocks(nn.Module):
    """Blocks in a row, checkpointed or not."""

    def __init__(self, use_reentrant: bool | None = None) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) if self.use_reentrant is None else checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.head(x)


def build(use_reentrant: bool | None = None, mapping: str = "single") -> Blocks:
    torch.manual_seed(0)
    return shapeshift.compress(Blocks(use_reentrant), 0.6, mapping=mapping)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 8, generator=generator), torch.randn(8, 4, generator=generator)


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int = 3) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Train for a few steps; return the losses, and the last gradients by the names that the compressed model has."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}
    return losses, {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def share(x: Tensor) -> Tensor:
    return x.chunk(WORLD)[dist.get_rank()]


def wrap_ddp(model: Blocks) -> nn.Module:
    return DistributedDataParallel(model, static_graph=model.use_reentrant is True)


def wrap_fsdp(model: Blocks, per_block: bool) -> nn.Module:
    if per_block:
        for block in model.blocks:
            fully_shard(block)
    return fully_shard(model)


def train_in_processes(
    rank: int, folder: Path, model: Callable[[], Blocks], wrap: Callable[[Blocks], nn.Module]
) -> None:
    x, y = map(share, data())
    wrapped = wrap(model())
    losses, found = train(wrapped, x, y)
    for loss in losses:
        dist.all_reduce(loss)
    result = {"losses": [loss / WORLD for loss in losses], "gradients": found}
    if isinstance(wrapped, FSDPModule):
        result["no_weight_decay"] = sorted(wrapped.no_weight_decay())
        with pytest.raises(shapeshift.ModelError, match=r"are sharded.*shapeshift\.save.*shapeshift\.load"):
            shapeshift.materialize(wrapped)
        assert shapeshift.is_compressed(wrapped)
    torch.save(result, folder / f"{rank}.pt")
    if rank == 0 or isinstance(wrapped, FSDPModule):
        shapeshift.save(wrapped, folder / "saved")


def run(folder: Path, model: Callable[[], Blocks], wrap: Callable[[Blocks], nn.Module]) -> list[dict[str, Any]]:
    """Train in processes of their own, and return what each of them found."""
    spawn(train_in_processes, folder, model, wrap)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("use_reentrant", [None, False, True], ids=["plain", "checkpointed", "reentrant"])
def test_ddp_has_the_gradients_of_one_process_with_the_joint_batch(tmp_path: Path, use_reentrant: bool | None) -> None:
    losses, gradients = train(build(), *data())
    for result in run(tmp_path, partial(build, use_reentrant), wrap_ddp):
        assert_close(result["losses"], losses, "reordered gradient")
        assert_close(result["gradients"], gradients, "reordered gradient")


@pytest.mark.parametrize("per_block", [False, True], ids=["root", "per block"])
def test_fsdp2_trains_and_saves_as_one_process_does(tmp_path: Path, per_block: bool) -> None:
    model = build(mapping="shape")
    losses, gradients = train(model, *data())
    for result in run(tmp_path, partial(build, mapping="shape"), partial(wrap_fsdp, per_block=per_block)):
        assert_close(result["losses"], losses, "reordered gradient")
        assert_close(result["gradients"], gradients, "reordered gradient")
        assert result["no_weight_decay"] == sorted(model.no_weight_decay())
    saved = shapeshift.load(tmp_path / "saved", Blocks())
    assert_close(saved.state_dict(), model.state_dict(), "reordered gradient")
    x, _ = data()
    assert_close(shapeshift.materialize(saved)(x), model(x), "reordered gradient")
