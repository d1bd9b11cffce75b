"""Training in two processes has the gradients of one process with the joint batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import shapeshift
from tests.joint_batch import Blocks, data, run, train
from tests.processes import needs_gloo
from tests.tolerances import assert_close

pytestmark = needs_gloo


def build(use_reentrant: bool | None = None, mapping: str = "single", recompute: bool = False) -> Blocks:
    torch.manual_seed(0)
    return shapeshift.compress(Blocks(use_reentrant), 0.6, mapping=mapping, recompute=recompute)


def wrap_ddp(model: Blocks) -> nn.Module:
    return DistributedDataParallel(model, static_graph=model.use_reentrant is True)


def wrap_fsdp(model: Blocks, per_block: bool) -> nn.Module:
    if per_block:
        for block in model.blocks:
            fully_shard(block)
    return fully_shard(model)


@pytest.mark.parametrize(
    ("use_reentrant", "recompute"),
    [(None, False), (False, False), (True, False), (None, True), (True, True)],
    ids=["plain", "checkpointed", "reentrant", "recomputed", "recomputed and reentrant"],
)
def test_ddp_has_the_gradients_of_one_process_with_the_joint_batch(
    tmp_path: Path, use_reentrant: bool | None, recompute: bool
) -> None:
    losses, gradients = train(build(), *data())
    for result in run(tmp_path, partial(build, use_reentrant, recompute=recompute), wrap_ddp):
        assert_close(result["losses"], losses, "reordered gradient")
        assert_close(result["gradients"], gradients, "reordered gradient")


@pytest.mark.parametrize(
    ("per_block", "recompute"),
    [(False, False), (True, False), (False, True)],
    ids=["root", "per block", "recomputed"],
)
def test_fsdp2_trains_and_saves_as_one_process_does(tmp_path: Path, per_block: bool, recompute: bool) -> None:
    model = build(mapping="shape")
    losses, gradients = train(model, *data())
    built = partial(build, mapping="shape", recompute=recompute)
    for result in run(tmp_path, built, partial(wrap_fsdp, per_block=per_block)):
        assert_close(result["losses"], losses, "reordered gradient")
        assert_close(result["gradients"], gradients, "reordered gradient")
        assert result["no_weight_decay"] == sorted(model.no_weight_decay())
    saved = shapeshift.load(tmp_path / "saved", Blocks())
    assert_close(saved.state_dict(), model.state_dict(), "reordered gradient")
    x, _ = data()
    assert_close(shapeshift.materialize(saved)(x), model(x), "reordered gradient")
