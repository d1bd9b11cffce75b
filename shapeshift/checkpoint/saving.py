"""Writing a compressed or pruned model to a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from shapeshift.checkpoint.files import write
from shapeshift.checkpoint.snapshot import Snapshot, check_wrapper
from shapeshift.errors import ModelError
from shapeshift.prune.masks import is_masked
from shapeshift.running.modes import is_sharded
from shapeshift.store_format import STORE_FORMATS, StoreFormat
from shapeshift.surgery.attached import is_attached
from shapeshift.surgery.roots import require_shared
from shapeshift.surgery.shared_parameters import SharedParameters


def save(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    store: str | None = None,
    rest: str | None = None,
    trainable_only: bool = False,
    entropy_coding: bool = False,
) -> dict[str, float] | None:
    """Write a compressed or pruned model to a directory, in a size proportional to its parameters.

    ``model.safetensors`` holds the shared parameters and everything that is not generated: biases, norms, buffers and
    frozen parameters, tensors that share memory once, and small ones joined to one. ``shapeshift.json`` holds the plan,
    deflated, and the channels that each layer kept, so that :func:`load` derives nothing again. Each file is written
    beside its place and moved there when it is complete.

    Args:
        model: A compressed or pruned model, or a wrapper around one (DDP, say), which is left out. Parameters that
            FSDP2 has sharded are gathered: all processes have to call this then, and the first one writes.
        directory: The directory to write to. It is made if it does not exist.
        store: How the file keeps the stores, in place of the option ``store`` that the model was compressed with. The
            model stays as it is; the one that is loaded has the option from here.
        rest: How the file keeps what is not generated, in place of the option ``rest``.
        trainable_only: Whether to leave out the frozen parameters, such as those of the base model of an adapter.
            :func:`load` then takes them from the model that it is given, and checks their shapes and a few of their
            values. Shared parameters and persistent buffers are always stored.
        entropy_coding: Whether the file's bytes are coded by their entropy (Huffman 1952, "A Method for the
            Construction of Minimum-Redundancy Codes"), where that makes the files smaller. Nothing is lost. The size
            depends on the values, and is at most the one that a budget in bytes and :func:`report` count.

    Returns:
        With ``store``, the relative error of each generated weight that it causes, by the weight's name: the norm of
        the difference, divided by the norm of the weight. None otherwise.

    Raises:
        ConfigError: if ``store`` or ``rest`` is unknown.
        ModelError: if the model is neither compressed nor pruned, is on the meta device, or holds state that is not a
            tensor; if ``store`` or ``rest`` is given for a model that is not compressed or is sharded; or if
            ``trainable_only`` is given and no parameter is trainable.

    Example:
        >>> import tempfile, torch, shapeshift
        >>> model = shapeshift.compress(torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 8)), 700)
        >>> folder = tempfile.mkdtemp()
        >>> shapeshift.save(model, folder)
        >>> fresh = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 8))
        >>> loaded = shapeshift.load(folder, fresh)
        >>> torch.equal(loaded[0].weight, model[0].weight)
        True
        >>> errors = shapeshift.save(model, folder, store="int8")
        >>> 0 < errors["0.weight"] < 0.01
        True
    """
    if is_masked(model):
        raise ModelError(
            f"{type(model).__name__} has masked filters, which a checkpoint cannot mark: prune without mask=True, or "
            "keep its state_dict()"
        )
    snapshot = Snapshot.of(model)
    check_wrapper(model, snapshot.root)
    if trainable_only:
        snapshot = snapshot.without_base()
    for name, tensor in snapshot.tensors.items():
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device and has no values to save; give the model values first")
    sharded = any(map(is_sharded, snapshot.tensors.values()))
    whole = {
        name: cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor
        for name, tensor in snapshot.tensors.items()
    }
    errors = None
    if store is not None or rest is not None:
        if sharded or not is_attached(snapshot.root):
            raise ModelError(
                f"store= and rest= are for a compressed model whose parameters are whole, and {type(model).__name__} "
                f"is {'sharded' if sharded else 'not compressed'}: leave them out"
            )
        snapshot = snapshot.in_formats(store, rest)
        errors = None if store is None else rounding_errors(require_shared(snapshot.root), STORE_FORMATS[store])
    if not sharded or dist.get_rank() == 0:
        write(Path(directory), snapshot.description, whole, snapshot.formats, entropy_coding)
    if sharded:
        dist.barrier()  # no process returns before the files are complete
    return errors


@torch.no_grad()
def rounding_errors(shared: SharedParameters, store_format: StoreFormat) -> dict[str, float]:
    """Return the relative error that another format of the stores gives each generated weight, by its name."""
    errors = {}
    for generator in shared.generators():
        own = generator.store_format
        for index, weight in enumerate(generator.weights):
            (before,) = generator.generate([index])
            before = before.clone()
            try:
                generator.store_format = store_format
                (after,) = generator.generate([index])
            finally:
                generator.store_format = own
            norm = torch.linalg.vector_norm(before.float()).item()
            difference = torch.linalg.vector_norm(after.float() - before.float()).item()
            errors[weight.name] = difference / norm if norm else difference
    return errors
