"""The tensors of a checkpoint as its file holds them: rounded, packed, and the small ones joined."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shapeshift.checkpoint.coding import Run, coded, decoded
from shapeshift.store_format import FloatFormat, IntegerFormat, StoreFormat

#: The name of the tensor that holds the bytes of the small ones; an entry of its own in the file takes about 100 bytes.
JOINED = "shapeshift"
_SMALL = 2**14

#: The metadata of a safetensors file, which transformers asks for.
METADATA = {"format": "pt"}

# The dtypes of safetensors, in the order in which a file holds their tensors.
_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PACKED = "packed_"


@dataclass(frozen=True)
class Kept:
    """How the file holds one tensor.

    Attributes:
        name: the tensor's name.
        kind: the dtype in the file, or the format of packed integers.
        shape: the tensor's shape.
    """

    name: str
    kind: torch.dtype | IntegerFormat
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor, store_format: StoreFormat | None) -> Kept:
        """Return how the file holds a tensor in a format; None keeps it as it is."""
        kind: torch.dtype | IntegerFormat = tensor.dtype
        if store_format is not None and tensor.is_floating_point() and not store_format.is_exact(tensor.dtype):
            assert isinstance(store_format, FloatFormat | IntegerFormat)
            kind = store_format.dtype if isinstance(store_format, FloatFormat) else store_format
        return cls(name, kind, tuple(tensor.shape))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Kept:
        """Rebuild from :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: if the dict does not come from :meth:`to_dict`.
        """
        try:
            name, shape = str(fields["kind"]), tuple(map(int, fields["shape"]))
        except OverflowError:
            raise ValueError(f"no tensor has the shape {fields['shape']}") from None
        kind = (
            IntegerFormat(int(name.removeprefix(_PACKED))) if name.startswith(_PACKED) else getattr(torch, name, None)
        )
        if not isinstance(kind, torch.dtype | IntegerFormat) or min(shape, default=0) < 0:
            raise ValueError(f"no tensor is kept as {name!r} in the shape {shape}")
        return cls(str(fields["name"]), kind, shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        packed = isinstance(self.kind, IntegerFormat)
        kind = f"{_PACKED}{self.kind.bits}" if packed else str(self.kind).removeprefix("torch.")  # type: ignore[union-attr]
        return {"name": self.name, "kind": kind, "shape": list(self.shape)}

    @property
    def is_packed(self) -> bool:
        """Whether the file holds bytes in place of entries."""
        return isinstance(self.kind, IntegerFormat)

    @property
    def is_small(self) -> bool:
        """Whether the tensor is joined with others."""
        return self.num_bytes < _SMALL

    @property
    def num_bytes(self) -> int:
        """The size of what the file holds."""
        numel = math.prod(self.shape)
        if isinstance(self.kind, IntegerFormat):
            return self.kind.num_bytes(numel, torch.float32)
        return numel * self.kind.itemsize

    def parts(self) -> list[tuple[int, int]]:
        """Return the bytes of each part of what the file holds, and the bytes of an entry of that part."""
        if isinstance(self.kind, IntegerFormat):
            return self.kind.parts(math.prod(self.shape))
        return [(self.num_bytes, self.kind.itemsize)]

    def form(self) -> tuple[torch.dtype, tuple[int, ...]]:
        """Return the dtype and the shape in the file of a tensor that is not joined."""
        return (torch.uint8, (self.num_bytes,)) if isinstance(self.kind, IntegerFormat) else (self.kind, self.shape)

    def keep(self, tensor: Tensor) -> Tensor:
        """Return what the file holds of the tensor."""
        if isinstance(self.kind, IntegerFormat):
            return self.kind.pack(tensor.detach())
        if tensor.dtype != self.kind:
            # A pass rounds so too. A conversion alone decides otherwise for some entries half-way between two values.
            tensor = FloatFormat(self.kind).round(tensor.detach())
        return tensor.detach().to(self.kind)

    def take(self, held: Tensor) -> Tensor:
        """Return the tensor, given its bytes."""
        if isinstance(self.kind, IntegerFormat):
            return self.kind.unpack(held, self.shape, torch.float32)
        return held.clone().view(self.kind).view(self.shape)  # a copy begins where any dtype may


def kept_tensors(tensors: Mapping[str, Tensor], formats: Mapping[str, StoreFormat]) -> list[Kept]:
    """Return how the file holds tensors, in the order of their names.

    Args:
        tensors: The tensors by name; those on the meta device count as well.
        formats: The formats of some of them, by name.
    """
    return [Kept.of(name, tensors[name], formats.get(name)) for name in sorted(tensors)]


def directory(kept: Iterable[Kept], coding: bool = False) -> list[dict[str, Any]]:
    """Return what the file's own header does not say, as JSON can hold it."""
    return [found.to_dict() for found in kept if coding or found.is_small or found.is_packed]


def packed(tensors: Mapping[str, Tensor], kept: Sequence[Kept], coding: bool = False) -> dict[str, Tensor]:
    """Return the content of the file.

    Args:
        tensors: The tensors by name.
        kept: How the file holds them.
        coding: Whether all of them are joined, and coded by their entropy.
    """
    content, joined = {}, []
    for found in kept:
        held = found.keep(tensors[found.name])
        if coding or found.is_small:
            joined.append(held.contiguous().cpu().flatten().view(torch.uint8))
        else:
            content[found.name] = held
    if coding:
        return {JOINED: coded(torch.cat(joined), _runs(kept))} if joined else {}
    return {**content, JOINED: torch.cat(joined)} if joined else content


def unpacked(
    content: Mapping[str, Tensor], entries: Iterable[Mapping[str, Any]], coding: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a file, given its content, the directory, and whether they are coded.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: if these do not fit.
    """
    tensors = dict(content)
    joined = tensors.pop(JOINED, torch.empty(0, dtype=torch.uint8))
    kept = list(map(Kept.from_dict, entries))
    if coding and kept:
        joined = decoded(joined, _runs(kept))
    end = 0
    for found in kept:
        if coding or found.is_small:
            held = joined[end : end + found.num_bytes]
            end += found.num_bytes
        else:
            held = tensors[found.name]
        if held.dtype != torch.uint8 or len(held) != found.num_bytes:
            raise ValueError(f"{found.name} takes {found.num_bytes} bytes, and the file holds {len(held)}")
        tensors[found.name] = found.take(held)
    if end != len(joined):
        raise ValueError(f"{len(joined) - end} bytes belong to no tensor")
    return tensors


def _runs(kept: Iterable[Kept]) -> list[Run]:
    """Return what the bytes of joined tensors consist of."""
    return [Run(f"{found.kind} {rank}", *part) for found in kept for rank, part in enumerate(found.parts())]


def file_size(kept: Iterable[Kept]) -> int:
    """Return the size of the safetensors file that holds tensors, without writing it."""
    kept = list(kept)
    forms = {found.name: found.form() for found in kept if not found.is_small}
    joined = [found.num_bytes for found in kept if found.is_small]
    if joined:
        forms[JOINED] = (torch.uint8, (sum(joined),))
    header: dict[str, Any] = {"__metadata__": METADATA}
    ranks = {dtype: rank for rank, dtype in enumerate(_DTYPES)}
    end = 0
    for name, (dtype, shape) in sorted(forms.items(), key=lambda item: (ranks[item[1][0]], item[0])):
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + len(text) + -len(text) % 8 + end
