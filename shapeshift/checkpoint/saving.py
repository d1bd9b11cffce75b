"""What a checkpoint holds of a compressed or pruned model, and writing it to a directory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn

from shapeshift.checkpoint.files import write
from shapeshift.errors import ModelError
from shapeshift.prune.masks import is_masked
from shapeshift.prune.record import find_pruned, record_of
from shapeshift.running.modes import is_sharded
from shapeshift.surgery.attached import is_attached, is_generated, original_class
from shapeshift.surgery.roots import find_root, require_root, require_shared


def save(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write a compressed or pruned model to a directory, in a size proportional to what is left of it.

    ``model.safetensors`` holds the shared parameters and everything that is not generated: biases, norms, buffers and
    frozen parameters, tensors that share memory once. ``shapeshift.json`` holds the plan, and the channels that each
    layer kept, so that :func:`load` derives nothing again. Each file is written beside its place and moved
    there when it is complete.

    Args:
        model: a compressed or pruned model, or a wrapper around one (by DDP, say), which is left out. What FSDP2 has
            sharded is gathered: all processes have to call this then, and the first one writes.
        directory: where to write; it is made if it does not exist.

    Raises:
        ModelError: if the model is neither compressed nor pruned, is on the meta device, or holds state that is not a
            tensor.
    """
    if is_masked(model):
        raise ModelError(
            f"{type(model).__name__} has masked filters, which a checkpoint does not tell from others: prune without "
            "mask=True, or keep its state_dict()"
        )
    root = find_described(model)
    root = require_root(model) if root is None else root
    check_wrapper(model, root)
    tensors, _ = stored_tensors(root)
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device and has no values to save; give the model values first")
    description = describe(root)
    sharded = any(map(is_sharded, tensors.values()))
    whole = {name: cast(Any, found).full_tensor() if is_sharded(found) else found for name, found in tensors.items()}
    if not sharded or dist.get_rank() == 0:
        write(Path(directory), description, whole)
    if sharded:
        dist.barrier()  # nobody reads what is not complete


def find_described(model: nn.Module) -> nn.Module | None:
    """Return what a checkpoint of a model describes: the compressed or pruned module in it; None without one.

    Raises:
        ModelError: if several compressed models are in it.
    """
    root = find_root(model)
    return find_pruned(model) if root is None else root  # a module may count as false: it can have a length


def describe(root: nn.Module) -> dict[str, Any]:
    """Describe a compressed or pruned model, without its tensors, as a dict that JSON can hold.

    Args:
        root: the root of a compressed model, or a pruned one.

    Raises:
        ModelError: if a module keeps extra state that is not a tensor, or a layer was replaced since the model was
            compressed.
    """
    if is_attached(root):
        _check_plan(root)
    tensors, aliases = stored_tensors(root)
    parameters = root.named_parameters(remove_duplicate=False)
    persistent = root.state_dict(keep_vars=True)
    record = record_of(root)
    description = {
        "architecture": original_class(root).__name__,
        "plan": require_shared(root).plan.to_dict() if is_attached(root) else None,
        "aliases": aliases,
        "frozen": sorted(name for name, parameter in parameters if not parameter.requires_grad),
        "non_persistent": sorted(name for name in {**tensors, **aliases} if name not in persistent),
    }
    if record is not None:
        description["pruning"] = record.to_dict()
    return description


def stored_tensors(root: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """List what a checkpoint of a compressed model stores.

    Args:
        root: the root of a compressed model.

    Returns:
        The tensors by name, and for each further name of a tensor the name that it is stored under.

    Raises:
        ModelError: if a module keeps extra state that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[Any, str] = {}
    # Buffers that a state dict leaves out are stored as well: a model on the meta device has no values for them.
    buffers = dict(root.named_buffers(remove_duplicate=False))
    for name, tensor in {**buffers, **root.state_dict(keep_vars=True)}.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{name} is state of type {type(tensor).__name__}, which a checkpoint cannot hold")
        first = first_names.setdefault(_memory(tensor), name)
        if first == name:
            tensors[name] = tensor
        else:
            aliases[name] = first
    return tensors, aliases


def check_wrapper(model: nn.Module, root: nn.Module) -> None:
    """Refuse a model of which only a part is compressed: a checkpoint holds that part alone."""
    inside = {id(tensor) for tensor in _tensors(root)}
    if any(id(tensor) not in inside for tensor in _tensors(model)):
        path = next(path for path, module in model.named_modules() if module is root)
        raise ModelError(
            f"only {path} ({original_class(root).__name__}) is compressed, and {type(model).__name__} holds more than "
            f"that. Save and load model.{path} by itself, and the rest with torch.save(...)"
        )


def _check_plan(root: nn.Module) -> None:
    """Refuse a model that lacks a weight which its plan generates: no freshly built model would fit its checkpoint."""
    names = (name for group in require_shared(root).plan.groups for weight in group.weights for name in weight.names)
    lost = [name for name in names if not is_generated(root, name)]
    if lost:
        raise ModelError(
            f"{lost[0]} was generated when the model was compressed and is not any more: the layer was replaced. "
            "Replace layers before shapeshift.compress(model, ...), or after shapeshift.materialize(model)"
        )


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _memory(tensor: Tensor) -> Any:
    """Identify the memory behind a tensor; what has none is told apart by the object itself."""
    if tensor.numel() == 0 or tensor.is_meta or is_sharded(tensor):
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
