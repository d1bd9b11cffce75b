"""The two files of a checkpoint: writing them, and reading and checking them again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shapeshift.checkpoint.checkpoint import FORMAT_VERSION, Checkpoint, stamped
from shapeshift.checkpoint.content import deflated, inflated
from shapeshift.checkpoint.packing import METADATA, Kept, directory, file_size, kept_tensors, packed, unpacked
from shapeshift.checkpoint.replacing import replacing
from shapeshift.errors import CheckpointError
from shapeshift.store_format import StoreFormat

TENSORS_FILE = "model.safetensors"
PLAN_FILE = "shapeshift.json"

# The tensor of the relative errors of a fit, one for each weight in the plan's order.
_ERRORS = "shapeshift_errors"


def write(
    folder: Path,
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    formats: Mapping[str, StoreFormat],
    coding: bool = False,
) -> None:
    """Write a checkpoint, each file beside its place first and moved there when it is complete.

    Args:
        folder: The folder; it is made if it does not exist.
        description: The content of the JSON file, without the fields that identify the format.
        tensors: The content of the safetensors file.
        formats: How it holds some of the tensors, by name.
        coding: Whether it is coded by its entropy, where that makes the files smaller.
    """
    description, tensors = _with_errors_apart(description, tensors)
    kept = kept_tensors(tensors, formats)
    content, stamp = packed(tensors, kept, coding), _stamp(description, kept, coding)
    if coding and _size(stamp, kept_tensors(content, {})) >= _size(_stamp(description, kept), kept):
        content, stamp = packed(tensors, kept), _stamp(description, kept)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / TENSORS_FILE) as written:
        save_file(_apart(content), written, metadata=METADATA)
        stamp["sha256"] = seal(stamp, written)
    with replacing(folder / PLAN_FILE) as written:
        written.write_text(_text(stamp), encoding="utf-8")


def size(description: Mapping[str, Any], tensors: Mapping[str, Tensor], formats: Mapping[str, StoreFormat]) -> int:
    """Return the bytes of all files that :func:`write` would write; the tensors may be on the meta device."""
    description, tensors = _with_errors_apart(description, tensors)
    kept = kept_tensors(tensors, formats)
    return _size(_stamp(description, kept), kept)


def _size(stamp: Mapping[str, Any], kept: Sequence[Kept]) -> int:
    """Return the bytes of both files, given the content of the JSON file without its checksum."""
    return file_size(kept) + len(_text({**stamp, "sha256": hashlib.sha256().hexdigest()}).encode())


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
    stamp = description
    description = _described(stamp, plan_file)
    checkpoint = Checkpoint.parse(description, plan_file)
    try:
        tensors = load_file(tensors_file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{tensors_file} is damaged or not a safetensors file ({error})") from None
    sha256 = stamp.pop("sha256", None)
    if sha256 is None:
        raise CheckpointError(f"{plan_file} is damaged: it cannot be read without its sha256. Save the model again")
    if seal(stamp, tensors_file) != sha256:
        raise CheckpointError(
            f"{TENSORS_FILE} and {PLAN_FILE} in {folder} do not belong together: one of them was damaged or replaced. "
            "Take both from one shapeshift.save(model, ...)"
        )
    try:
        tensors = unpacked(tensors, description.get("tensors", ()), bool(description.get("coding", False)))
        errors = _errors_of(checkpoint, tensors.pop(_ERRORS, None))
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{tensors_file} is damaged: it cannot be unpacked ({what}). Save the model again"
        ) from None
    missing = sorted(set(checkpoint.aliases.values()) - set(tensors))
    if missing:
        raise CheckpointError(f"{plan_file} is damaged: it refers to {missing[0]}, which {TENSORS_FILE} does not hold")
    tensors |= {alias: tensors[name] for alias, name in checkpoint.aliases.items()}
    return dataclasses.replace(checkpoint, tensors=tensors, fit_errors=errors)


def _stamp(description: Mapping[str, Any], kept: Sequence[Kept], coding: bool = False) -> dict[str, Any]:
    """Return the content of the JSON file, but for its checksum."""
    how = {"coding": True} if coding else {}
    return {**stamped({}), "content": deflated({**description, **how, "tensors": directory(kept, coding)})}


def _text(stamp: Mapping[str, Any]) -> str:
    return json.dumps(stamp, separators=(",", ":")) + "\n"


def _described(stamp: Any, file: Path) -> Any:
    """Return the description that a JSON file holds: deflated, or as it is in files of version 1.

    Raises:
        CheckpointError: if it cannot be inflated.
    """
    if not isinstance(stamp, dict):
        return stamp
    version = stamp.get("format_version")
    if "content" not in stamp or not isinstance(version, int) or version > FORMAT_VERSION:
        return dict(stamp)
    try:
        return {**stamp, **inflated(stamp["content"])}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file} is damaged: its plan cannot be read ({what}). Save the model again") from None


def _with_errors_apart(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Move the errors of a fit to a tensor, which takes 4 bytes for each, whatever they are."""
    plan = dict(description["plan"] or {})
    errors = plan.pop("errors", {})
    if not errors:
        return {**description, "plan": plan or None}, dict(tensors)
    names = [next(iter(weight["names"]), "") for group in plan["groups"] for weight in group["weights"]]
    found = torch.tensor([errors.get(name, math.nan) for name in names])
    return {**description, "plan": plan}, {**tensors, _ERRORS: found}


def _errors_of(checkpoint: Checkpoint, found: Tensor | None) -> dict[str, float]:
    """Return the errors of a fit by the names of the weights: those of a tensor, or of the plan of a version 1."""
    if found is None or checkpoint.plan is None:
        return checkpoint.fit_errors
    named = zip(checkpoint.plan.weights, found.tolist(), strict=True)
    return {weight.name: error for weight, error in named if not math.isnan(error)}


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


def seal(description: Mapping[str, Any], tensors_file: Path) -> str:
    """Return a checksum of both files of a checkpoint, given the content of the JSON file, which will hold it."""
    checksum = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    with tensors_file.open("rb") as content:
        return hashlib.file_digest(content, lambda: checksum).hexdigest()
