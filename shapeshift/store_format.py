"""How the entries of a store are kept in a file: the values that they are rounded to, and their bytes."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# The entries that share a scale. At 64, the scale of 16 bits adds a quarter of a bit to each entry.
BLOCK = 64


class StoreFormat(abc.ABC):
    """A way to keep entries in a file.

    :meth:`round` gives the values that the file will hold. Rounded values stay as they are when they are rounded
    again, bit by bit: a model that is loaded computes with the same values as the one that was saved.
    """

    @abc.abstractmethod
    def is_exact(self, dtype: torch.dtype) -> bool:
        """Return whether entries of a dtype are kept as they are."""

    @abc.abstractmethod
    def round(self, entries: Tensor) -> Tensor:
        """Round floating-point entries of any shape to what the file will hold, by plain operations."""

    @abc.abstractmethod
    def num_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """Return how many bytes a tensor of ``numel`` entries of a dtype takes in the file."""

    @abc.abstractmethod
    def pack(self, entries: Tensor) -> Tensor:
        """Return the bytes of a tensor, of shape (num_bytes,) and dtype uint8."""

    @abc.abstractmethod
    def unpack(self, packed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the rounded entries that :meth:`pack` was given, in their shape and dtype."""

    def straight_through(self, entries: Tensor, noise: bool = False) -> Tensor:
        """Round entries, and pass gradients on as if nothing were rounded (Bengio, Léonard and Courville 2013).

        Args:
            entries: Floating-point entries of any shape.
            noise: Whether to round only a random half of them (Fan et al. 2021, "Training with Quantization Noise for
                Extreme Model Compression", section 4).

        Returns:
            A tensor of the same shape and dtype.
        """
        if self.is_exact(entries.dtype):
            return entries
        values = entries.detach()
        rounded = self.round(values)
        if noise:
            rounded = torch.where(torch.rand_like(values) < 0.5, rounded, values)
        if torch.is_grad_enabled() and entries.requires_grad:
            # Plus zero. Any other order of these three would round once more.
            return rounded + (entries - values)
        return rounded


@dataclass(frozen=True)
class FloatFormat(StoreFormat):
    """Floating-point numbers. Entries of a dtype that is no wider are kept as they are.

    Entries below the smallest normal number of the file's dtype become zeros, and those beyond its largest infinite.

    Args:
        dtype: The dtype in the file.
    """

    dtype: torch.dtype

    def is_exact(self, dtype: torch.dtype) -> bool:
        # float32 is the default, which rounds no model.
        return self.dtype == torch.float32 or dtype.itemsize <= self.dtype.itemsize

    def round(self, entries: Tensor) -> Tensor:
        if self.is_exact(entries.dtype):
            return entries
        limits = torch.finfo(self.dtype)
        rounded = _significant(entries, self.dtype)
        rounded = torch.where(rounded.abs() < limits.tiny, 0.0, rounded)
        return torch.where(rounded.abs() > limits.max, rounded * math.inf, rounded)

    def num_bytes(self, numel: int, dtype: torch.dtype) -> int:
        return numel * (dtype if self.is_exact(dtype) else self.dtype).itemsize

    def pack(self, entries: Tensor) -> Tensor:
        kept = self.round(entries).to(entries.dtype if self.is_exact(entries.dtype) else self.dtype)
        return _bytes_of(kept)

    def unpack(self, packed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        kept = dtype if self.is_exact(dtype) else self.dtype
        return packed.clone().view(kept).to(dtype).view(tuple(shape))


@dataclass(frozen=True)
class IntegerFormat(StoreFormat):
    """Integers with one scale for each block of 64 entries, packed without gaps.

    The scale is the largest magnitude of the block divided by the largest integer, in bfloat16. A product of an integer
    and a scale has at most 15 significant bits, so that it is exact in float32, and the largest one gives the same
    scale again. A block whose largest product would be no normal number becomes zeros. The scales of bfloat16
    entries are powers of two, since their products have room for no more than the integer's own bits.

    Args:
        bits: The bits of an integer: 8, 6 or 4.
    """

    bits: int

    @property
    def largest(self) -> int:
        """The largest integer. The smallest is its negative."""
        return int(2 ** (self.bits - 1)) - 1

    def is_exact(self, dtype: torch.dtype) -> bool:
        return False

    def round(self, entries: Tensor) -> Tensor:
        return _joined(map(torch.mul, *self._quantise(entries)), entries.shape, entries.dtype)

    def num_bytes(self, numel: int, dtype: torch.dtype) -> int:
        return sum(size for size, _ in self.parts(numel))

    def parts(self, numel: int) -> list[tuple[int, int]]:
        """Return the bytes of the scales and of the integers of a tensor, each with the bytes that recur."""
        return [(2 * _blocks(numel), 2), (sum(self._bytes_of_integers(numel)), math.lcm(self.bits, 8) // 8)]

    def pack(self, entries: Tensor) -> Tensor:
        integers, scales = self._quantise(entries)
        kept = torch.cat([found.flatten() for found in integers]).nan_to_num(0).to(torch.int16) + 2 ** (self.bits - 1)
        whole, extra = self._bytes_of_integers(entries.numel())
        kept = F.pad(kept, (0, (whole + extra) * 8 // self.bits - len(kept)))
        return torch.cat([_bytes_of(torch.cat(scales).to(torch.bfloat16)), self._join(kept)])

    def unpack(self, packed: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        numel, working = math.prod(shape), _working(dtype)
        end = 2 * _blocks(numel)
        scales = packed[:end].clone().view(torch.bfloat16).to(working).unsqueeze(1)
        integers = _in_blocks((self._part(packed[end:])[:numel] - 2 ** (self.bits - 1)).to(working))
        return _joined(map(torch.mul, integers, scales.split([len(blocks) for blocks in integers])), shape, dtype)

    def _quantise(self, entries: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the integers and the scales of the whole blocks, and those of the last one if it is not whole."""
        blocks = _in_blocks(entries.flatten().to(_working(entries.dtype)))
        integers, scales = zip(*(self._quantise_blocks(found, entries.dtype) for found in blocks), strict=True)
        return list(integers), list(scales)

    def _quantise_blocks(self, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the integers and the scales of blocks of one size, of shapes (blocks, size) and (blocks, 1)."""
        highest = blocks.abs().amax(1, keepdim=True)
        scales = highest / self.largest
        scales = _power_of_two(scales) if dtype == torch.bfloat16 else _significant(scales, torch.bfloat16)
        smallest = max(4 * torch.finfo(dtype).tiny / 2**self.bits, 2.0**-120)
        scales = torch.where(scales < smallest, 0.0, scales)
        integers = torch.where(scales > 0, torch.round(blocks / scales), 0.0)
        return integers + 0.0, scales  # no negative zeros, which integers do not have

    def _bytes_of_integers(self, numel: int) -> tuple[int, int]:
        """Return the bytes of all complete runs of integers that fill whole bytes, and those of the last run."""
        run = math.lcm(self.bits, 8) // 8
        count = run * 8 // self.bits
        return numel // count * run, run if numel % count else 0

    def _join(self, integers: Tensor) -> Tensor:
        """Pack integers without a sign into bytes."""
        if self.bits == 8:
            return integers.to(torch.uint8)
        if self.bits == 4:
            low, high = integers.view(-1, 2).unbind(1)
            return (low | high << 4).to(torch.uint8)
        a, b, c, d = integers.view(-1, 4).unbind(1)
        return torch.stack([a | (b & 3) << 6, b >> 2 | (c & 15) << 4, c >> 4 | d << 2], 1).flatten().to(torch.uint8)

    def _part(self, packed: Tensor) -> Tensor:
        """Take apart what :meth:`_join` packed."""
        wide = packed.to(torch.int16)
        if self.bits == 8:
            return wide
        if self.bits == 4:
            return torch.stack([wide & 15, wide >> 4], 1).flatten()
        x, y, z = wide.view(-1, 3).unbind(1)
        return torch.stack([x & 63, x >> 6 | (y & 15) << 2, y >> 4 | (z & 3) << 4, z >> 2], 1).flatten()


#: The formats by the values of the option ``store``.
STORE_FORMATS: dict[str, StoreFormat] = {
    "float32": FloatFormat(torch.float32),
    "bfloat16": FloatFormat(torch.bfloat16),
    "float16": FloatFormat(torch.float16),
    "int8": IntegerFormat(8),
    "int6": IntegerFormat(6),
    "int4": IntegerFormat(4),
}


def _significant(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round values of a wider dtype to as many significant bits as a dtype has.

    The sum has that many bits left for the value. Torch's compiler leaves out a conversion that is taken back at once,
    so that conversions would not round there. The product is exact, so that fusing it with the sum changes nothing.
    """
    scaled = values * (torch.finfo(dtype).eps / torch.finfo(values.dtype).eps)
    return (values + scaled) - scaled


def _power_of_two(scales: Tensor) -> Tensor:
    """Return the next power of two that is not smaller, for normal float32 values."""
    return ((scales.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _blocks(numel: int) -> int:
    return -(-numel // BLOCK)


def _in_blocks(vector: Tensor) -> list[Tensor]:
    """Cut a vector into its whole blocks, of shape (blocks, 64), and the rest, of shape (1, entries), if there is one.

    A rest that is padded to a block, and cut off in the end, is read beyond its end by code of torch's compiler (2.15).
    """
    end = len(vector) // BLOCK * BLOCK
    parts = [vector[:end].view(-1, BLOCK), vector[end:].view(1, -1)]
    return [part for part in parts if part.numel()] or parts[:1]


def _joined(parts: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.cat([part.flatten() for part in parts]).view(tuple(shape)).to(dtype)


def _bytes_of(values: Tensor) -> Tensor:
    return values.detach().contiguous().flatten().view(torch.uint8)
