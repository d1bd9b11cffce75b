"""The two files of a checkpoint: how they are written, and read again with every reason to distrust them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shapeshift.checkpoint.replacing import replacing
from shapeshift.errors import CheckpointError, ShapeshiftError
from shapeshift.plan import Plan
from shapeshift.prune.record import Pruning
from shapeshift.version import __version__

TENSORS_FILE = "model.safetensors"
PLAN_FILE = "shapeshift.json"
FORMAT = "shapeshift"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: how its model was compressed and pruned, and its tensors by every name they have.

    Attributes:
        file: what describes the model.
        architecture: the model's class.
        plan: how it was compressed; None if it was not.
        pruning: how it was pruned; None if it was not.
        frozen: the names of parameters that were not trained.
        non_persistent: the names of buffers that a state dict leaves out.
        aliases: for each further name of a tensor the name that it is stored under.
        tensors: the tensors; none as long as only the description was read.
    """

    file: Path
    architecture: str
    plan: Plan | None
    pruning: Pruning | None
    frozen: frozenset[str]
    non_persistent: frozenset[str]
    aliases: dict[str, str]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.file.parent


def stamped(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a model with what identifies the format before it."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "shapeshift": __version__,
        "torch": str(torch.__version__),  # a class of its own otherwise, which pickle would name
        **description,
    }


def write(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, each file beside its place first and moved there when it is complete.

    Args:
        folder: where; it is made if it does not exist.
        description: what the JSON file holds, beside what identifies the format.
        tensors: what the safetensors file holds.
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
    checkpoint = parse(description, plan_file)
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


def parse(description: Any, file: Path) -> Checkpoint:
    """Read the description of a model, without its tensors.

    Args:
        description: what the JSON file of a checkpoint holds.
        file: where it comes from.

    Raises:
        CheckpointError: if it is damaged or foreign, or was written by a newer version.
    """
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{file} was not written by shapeshift.save")
    version = description.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {version!r}, written by shapeshift {description.get('shapeshift')}; "
            f"this is shapeshift {__version__}, which reads up to version {FORMAT_VERSION}. Upgrade shapeshift"
        )
    try:
        pruning = Pruning.from_dict(description["pruning"]) if "pruning" in description else None
        compressed = description["plan"] is not None or pruning is None
        plan = Plan.from_dict(description["plan"]) if compressed else None
        architecture = str(description["architecture"])
        aliases = {str(alias): str(name) for alias, name in description["aliases"].items()}
        frozen, non_persistent = (frozenset(map(str, description[kind])) for kind in ("frozen", "non_persistent"))
    except ShapeshiftError as error:
        raise CheckpointError(f"{file} (shapeshift {description.get('shapeshift')}): {error}") from None
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file} is damaged: its plan cannot be read ({what}). Save the model again") from None
    return Checkpoint(file, architecture, plan, pruning, frozen, non_persistent, aliases)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that are parts of one memory, and those that are not contiguous: safetensors takes neither."""
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
    """Return a checksum of both files of a checkpoint, given the content of the one that will hold it."""
    checksum = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    with tensors_file.open("rb") as content:
        return hashlib.file_digest(content, lambda: checksum).hexdigest()
