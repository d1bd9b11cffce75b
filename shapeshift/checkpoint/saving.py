"""Writing a compressed or pruned model to a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch import nn

from shapeshift.checkpoint.files import write
from shapeshift.checkpoint.snapshot import Snapshot, check_wrapper
from shapeshift.errors import ModelError
from shapeshift.prune.masks import is_masked
from shapeshift.running.modes import is_sharded


def save(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write a compressed or pruned model to a directory, in a size proportional to its parameters.

    ``model.safetensors`` holds the shared parameters and everything that is not generated: biases, norms, buffers and
    frozen parameters, tensors that share memory once. ``shapeshift.json`` holds the plan, and the channels that each
    layer kept, so that :func:`load` derives nothing again. Each file is written beside its place and moved
    there when it is complete.

    Args:
        model: A compressed or pruned model, or a wrapper around one (DDP, say), which is left out. Parameters that
            FSDP2 has sharded are gathered: all processes have to call this then, and the first one writes.
        directory: The directory to write to. It is made if it does not exist.

    Raises:
        ModelError: if the model is neither compressed nor pruned, is on the meta device, or holds state that is not a
            tensor.

    Example:
        >>> import tempfile, torch, shapeshift
        >>> model = shapeshift.compress(torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 8)), 700)
        >>> folder = tempfile.mkdtemp()
        >>> shapeshift.save(model, folder)
        >>> fresh = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 8))
        >>> loaded = shapeshift.load(folder, fresh)
        >>> torch.equal(loaded[0].weight, model[0].weight)
        True
    """
    if is_masked(model):
        raise ModelError(
            f"{type(model).__name__} has masked filters, which a checkpoint cannot mark: prune without mask=True, or "
            "keep its state_dict()"
        )
    snapshot = Snapshot.of(model)
    check_wrapper(model, snapshot.root)
    for name, tensor in snapshot.tensors.items():
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device and has no values to save; give the model values first")
    sharded = any(map(is_sharded, snapshot.tensors.values()))
    whole = {
        name: cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor
        for name, tensor in snapshot.tensors.items()
    }
    if not sharded or dist.get_rank() == 0:
        write(Path(directory), snapshot.description, whole)
    if sharded:
        dist.barrier()  # no process returns before the files are complete
