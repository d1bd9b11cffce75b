"""Training in one process, and in two that each take their half of its batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

import shapeshift
from tests.processes import WORLD, spawn


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
