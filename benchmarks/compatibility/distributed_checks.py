"""Training in two processes over gloo: gradients are those of the plain model in the same wrapper."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed import fsdp
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import shapeshift
from benchmarks.compatibility.check import (
    Network,
    PlainFailsError,
    SaidByOthersError,
    check,
    common,
    equal,
    images,
    pair,
    squared,
)

WORLD = 2
GROUP = "training in two processes"
SAID = {error.__name__: error for error in (shapeshift.ShapeshiftError, SaidByOthersError, PlainFailsError)}
#: What each process does, by the names of the checks.
WORK: dict[str, Callable[[], None]] = {}


def _work(name: str) -> Callable[[Callable[[], None]], None]:
    """Register what each process does for a check."""

    def add(work: Callable[[], None]) -> None:
        WORK[name] = work

        @check(GROUP, name)
        def _read() -> None:
            kind, message = _outcomes()[name]
            if kind:
                raise SAID.get(kind, RuntimeError)(message)

    return add


@functools.cache
def _outcomes() -> dict[str, tuple[str, str]]:
    """Return the kind and the message of the error in each piece of work, which run one after another."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_member, (folder,), nprocs=WORLD)  # type: ignore[attr-defined, no-untyped-call]
        found: dict[str, tuple[str, str]] = json.loads(Path(folder, "outcomes").read_text(encoding="utf-8"))
    return found


def _member(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    outcomes = {name: _outcome(work) for name, work in WORK.items()}
    if rank == 0:
        Path(folder, "outcomes").write_text(json.dumps(outcomes), encoding="utf-8")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # a thread of the group that outlives the interpreter would abort it


def _outcome(work: Callable[[], None]) -> tuple[str, str]:
    torch.manual_seed(0)
    try:
        work()
    except Exception as error:
        kinds = (name for name, kind in SAID.items() if isinstance(error, kind))
        return next(kinds, type(error).__name__), f"{error}"
    return "", ""


def _gradients(model: Network, wrap: Callable[[Any], nn.Module]) -> list[Any]:
    """Return the gradients that a wrapped model has on the two halves of a batch."""
    x = images().chunk(WORLD)[dist.get_rank()].requires_grad_()
    wrapped = wrap(model.eval())  # which has to outlive the backward pass
    squared(wrapped, x).backward()
    found: list[Any] = [parameter.grad for parameter in common(model).values()]
    return [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in found]


def _compare(wrap: Callable[[Any], nn.Module]) -> None:
    compressed, plain = pair()
    torch.manual_seed(1)
    expected = _gradients(plain, wrap)
    torch.manual_seed(1)
    equal(_gradients(compressed, wrap), expected)


def _checkpointed(model: Network, use_reentrant: bool, **options: Any) -> nn.Module:
    body = model.body.forward
    model.body.forward = partial(checkpoint, body, use_reentrant=use_reentrant)  # type: ignore[method-assign]
    return DistributedDataParallel(model, **options)


@_work("DistributedDataParallel")
def _ddp() -> None:
    _compare(DistributedDataParallel)


@_work("DistributedDataParallel, static_graph=True")
def _static() -> None:
    _compare(partial(DistributedDataParallel, static_graph=True))


@_work("DistributedDataParallel with gradient checkpointing")
def _checkpointing() -> None:
    _compare(partial(_checkpointed, use_reentrant=False))


@_work("DistributedDataParallel with reentrant checkpointing, static_graph=True")
def _reentrant_static() -> None:
    _compare(partial(_checkpointed, use_reentrant=True, static_graph=True))


@_work("DistributedDataParallel, with LoRA compressed")
def _ddp_adapter() -> None:
    config = peft.LoraConfig(target_modules=["hidden", "head"], r=4)
    model: Any = shapeshift.compress(peft.get_peft_model(Network().eval(), config), "60%", seed=0)  # type: ignore[arg-type]
    trained, x = [found for found in model.parameters() if found.requires_grad], images()
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.1
    expected = list(torch.autograd.grad(squared(model, x), trained))
    wrapped = DistributedDataParallel(model)  # which has to outlive the backward pass
    squared(wrapped, x.chunk(WORLD)[dist.get_rank()]).backward()
    equal([parameter.grad for parameter in trained], expected)


@_work("ZeroRedundancyOptimizer")
def _zero() -> None:
    model, _ = pair()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    wrapped = DistributedDataParallel(model.eval())
    optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.SGD, lr=0.1)  # type: ignore[no-untyped-call]
    squared(wrapped, images()).backward()
    expected = [found - 0.1 * parameter.grad for found, parameter in zip(before, model.parameters(), strict=True)]  # type: ignore[operator]
    optimizer.step()  # type: ignore[no-untyped-call]
    equal([parameter.detach() for parameter in model.parameters()], expected)


def _shard(model: Any) -> Any:
    return fsdp.fully_shard(model)


def _shard_a_part_first(model: Any) -> Any:
    fsdp.fully_shard(model.body)
    return fsdp.fully_shard(model)


@_work("FSDP2 (fully_shard) of the model")
def _fsdp() -> None:
    _compare(_shard)


@_work("FSDP2 (fully_shard) of the model and of a part")
def _fsdp_part() -> None:
    _compare(_shard_a_part_first)


@_work("shapeshift.save under FSDP2")
def _save() -> None:
    compressed, plain = pair()
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    shapeshift.save(_shard(compressed), folder[0])
    x = images()
    equal(shapeshift.load(folder[0], Network()).eval()(x), plain.eval()(x))


@_work("shapeshift.materialize under FSDP2")
def _materialize() -> None:
    shapeshift.materialize(_shard(pair()[0]))


@_work("DistributedDataParallel with reentrant checkpointing")  # the last, since it breaks off a backward pass
def _reentrant() -> None:
    wrap = partial(_checkpointed, use_reentrant=True)
    compressed, plain = pair()
    expected = _gradients(plain, wrap)
    try:
        equal(_gradients(compressed, wrap), expected)
    except RuntimeError as error:
        first, *rest = str(error).split(". ")
        if any("_set_static_graph()" in sentence for sentence in rest):
            raise SaidByOthersError(f"{first}: use DistributedDataParallel(model, static_graph=True)") from None
        raise
