"""Restoring a compressed or pruned model from a directory."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from shapeshift.checkpoint.checkpoint import Checkpoint
from shapeshift.checkpoint.files import read
from shapeshift.checkpoint.snapshot import check_wrapper
from shapeshift.errors import CheckpointError
from shapeshift.prune.record import cut_differences, find_pruned, pruned_as, record_of
from shapeshift.surgery.install import install
from shapeshift.surgery.roots import find_root, require_shared
from shapeshift.surgery.shared_parameters import ATTRIBUTE

ModelT = TypeVar("ModelT", bound=nn.Module)


def load(directory: str | os.PathLike[str], model: ModelT) -> ModelT:
    """Restore a model from :func:`save`, whatever its mapping was.

    Args:
        directory: The directory that :func:`save` wrote.
        model: A plain model of the same architecture, or one that is compressed and pruned in the same way. It is
            changed in place and keeps its devices and dtypes. Tensors on the meta device move to the CPU, and
            parameters that were frozen when the model was saved are frozen again. Where the checkpoint was saved with
            ``trainable_only=True``, the model needs the values of the frozen parameters.

    Returns:
        The same model, compressed, pruned, or both, as it was saved.

    Raises:
        CheckpointError: if a file is missing, damaged or foreign, was written by a newer version, or belongs to
            another architecture, or its frozen parameters were left out and the model has others. The model is then
            unchanged.
        ModelError: if the model cannot be compressed, such as a scripted one. It is then unchanged.

    Example:
        >>> import tempfile, torch, shapeshift
        >>> build = lambda: torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 8))
        >>> model, folder = shapeshift.compress(build(), "20%"), tempfile.mkdtemp()
        >>> shapeshift.save(model, folder)
        >>> x = torch.randn(2, 32)
        >>> torch.equal(shapeshift.load(folder, build())(x), model(x))
        True
    """
    checkpoint = read(Path(directory))
    with pruned(model, checkpoint):
        root = find_root(model)
        if checkpoint.plan is None:
            found = find_pruned(model)
            root = model if found is None else found
            checkpoint.check_state(root.state_dict(keep_vars=True), model)
        elif root is None:
            root, plan = model, checkpoint.plan_for(model)
            checkpoint.check_state_after(plan, model)
            install(model, checkpoint.build_shared(plan))
        else:
            check_wrapper(model, root)
            checkpoint.check_same_sharing(require_shared(root).plan)
            checkpoint.check_state(root.state_dict(keep_vars=True), root)
            require_shared(root).fit_errors = dict(checkpoint.fit_errors)
    _fill(root, checkpoint)
    return model


def pruned(model: nn.Module, checkpoint: Checkpoint) -> AbstractContextManager[None]:
    """Prune a model that is freshly built, if the checkpoint's was pruned; undone if what follows fails.

    Raises:
        CheckpointError: if the model has another architecture, or was compressed or pruned in another way.
    """
    record = checkpoint.pruning
    if checkpoint.plan is None and find_root(model) is not None:
        raise CheckpointError(
            f"the model is compressed, and the one in {checkpoint.folder} is not; "
            "load into a freshly built model, or call shapeshift.materialize(model) first"
        )
    if record is None or record == record_of(model):
        return nullcontext()
    if find_pruned(model) is not None or find_root(model) is not None:
        raise CheckpointError(
            f"the model in {checkpoint.folder} is pruned, and the one to load it into was already compressed or pruned "
            "in another way; load into a freshly built model"
        )
    checkpoint.refuse(cut_differences(model, record.cuts), model)
    return pruned_as(model, record)


def _fill(root: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a compressed model the values of a checkpoint that was found to fit."""
    allocated = _allocate(root)
    if any(name.startswith(f"{ATTRIBUTE}.") for name in allocated):
        getattr(root, ATTRIBUTE).reset_parameters()
    root.load_state_dict(checkpoint.persistent, strict=not checkpoint.base)  # what is left out was checked before
    buffers = dict(root.named_buffers(remove_duplicate=False))
    for name in checkpoint.non_persistent & allocated & set(buffers):
        buffers[name].copy_(checkpoint.tensors[name])
    for name, parameter in root.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name not in checkpoint.frozen)


def _allocate(root: nn.Module) -> set[str]:
    """Replace what is on the meta device by uninitialised memory, shared where it was shared; return its names."""
    memory: dict[Tensor, Tensor] = {}
    names = set()
    for path, module in root.named_modules(remove_duplicate=False):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_meta:
                continue
            if tensor not in memory:
                empty = torch.empty_like(tensor, device="cpu")
                is_parameter = isinstance(tensor, nn.Parameter)
                memory[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
            # setattr, for modules that keep track of their parameters, as RNNs do.
            setattr(module, name, memory[tensor])
            names.add(f"{path}.{name}" if path else name)
    return names
