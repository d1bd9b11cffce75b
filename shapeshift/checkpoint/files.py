"""The two files of a checkpoint: writing them, and reading and checking them again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shapeshift.checkpoint.checkpoint import Checkpoint, stamped
from shapeshift.checkpoint.replacing import replacing
from shapeshift.errors import CheckpointError

TENSORS_FILE = "model.safetensors"
PLAN_FILE = "shapeshift.json"


def write(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, each file beside its place first and moved there when it is complete.

    Args:
        folder: The folder; it is made if it does not exist.
        description: The content of the JSON file, without the fields that identify the format.
        tensors: The content of the safetensors file.
    """
    description = stamped(description)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / TENSORS_FILE) as written:
        save_file(_apart(tensors), written, metadata={"format": "pt"})
        description["sha256"] = _seal(description, written)
    with replacing(folder / PLAN_FILE) as written:
        written.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Checkpoint:
    """Read and check the files of a checkpoint, without regard to a model.

    Raises:
        CheckpointError: if a file is missing, damaged or foreign, or was written by a newer version.
    """
    plan_file, tensors_file = folder / PLAN_FILE, folder / TENSORS_FILE
    for file in (plan_file, tensors_file):
        if not file.is_file():
            raise CheckpointError(f"{file} does not exist; give the directory that shapeshift.save(model, ...) wrote")
    try:
        description = json.loads(plan_file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{plan_file} is damaged: it is not JSON ({error}). Save the model again") from None
    checkpoint = Checkpoint.parse(description, plan_file)
    try:
        tensors = load_file(tensors_file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{tensors_file} is damaged or not a safetensors file ({error})") from None
    sha256 = description.pop("sha256", None)
    if sha256 is None:
        raise CheckpointError(f"{plan_file} is damaged: it cannot be read without its sha256. Save the model again")
    if _seal(description, tensors_file) != sha256:
        raise CheckpointError(
            f"{TENSORS_FILE} and {PLAN_FILE} in {folder} do not belong together: one of them was damaged or replaced. "
            "Take both from one shapeshift.save(model, ...)"
        )
    missing = sorted(set(checkpoint.aliases.values()) - set(tensors))
    if missing:
        raise CheckpointError(f"{plan_file} is damaged: it refers to {missing[0]}, which {TENSORS_FILE} does not hold")
    tensors |= {alias: tensors[name] for alias, name in checkpoint.aliases.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share storage, and those that are not contiguous: safetensors takes neither."""
    storages: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        overlaps = pointer in storages and tensor.numel() > 0
        result[name] = tensor.detach().clone(memory_format=torch.contiguous_format) if overlaps else tensor.detach()
        result[name] = result[name].contiguous()
        storages.add(pointer)
    return result


def _seal(description: Mapping[str, Any], tensors_file: Path) -> str:
    """Return a checksum of both files of a checkpoint, given the content of the JSON file, which will hold it."""
    checksum = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    with tensors_file.open("rb") as content:
        return hashlib.file_digest(content, lambda: checksum).hexdigest()
