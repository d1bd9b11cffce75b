"""Entropy coding of bytes: Huffman's code, which gives frequent bytes fewer bits."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Each byte takes at least one bit: no damaged file can ask for more memory than eight times its size.
_LARGEST_RATIO = 8


@dataclass(frozen=True)
class Run:
    """Neighbouring bytes of one kind, such as the entries of a tensor.

    Attributes:
        kind: the kind; runs of one kind are coded together.
        size: the number of bytes.
        period: the bytes of an entry. Those at the same place of all entries are coded together, since those of
            exponents are easy to guess, and those of other digits are not.
    """

    kind: str
    size: int
    period: int


def coded(content: Tensor, runs: Iterable[Run]) -> Tensor:
    """Code bytes.

    Args:
        content: The bytes, of shape (bytes,) and dtype uint8.
        runs: What they consist of, in their order.

    Returns:
        Fewer bytes, or a few more where none is more frequent than others, of shape (coded bytes,).
    """
    # Matching repeated bytes, as zlib does otherwise, finds few of them in entries, and has no bound on the ratio.
    coder = zlib.compressobj(memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
    parts = []
    for period, places in _by_kind(runs):
        entries = torch.cat([content[place] for place in places]).view(-1, period)
        for column in entries.unbind(1):
            parts += [coder.compress(column.numpy().tobytes()), coder.flush(zlib.Z_BLOCK)]  # a code of its own
    return torch.frombuffer(bytearray(b"".join([*parts, coder.flush()])), dtype=torch.uint8)


def decoded(content: Tensor, runs: Iterable[Run]) -> Tensor:
    """Return the bytes that :func:`coded` was given.

    Raises:
        ValueError: if the code is damaged, or belongs to other runs.
    """
    runs = list(runs)
    size = sum(run.size for run in runs)
    if size > _LARGEST_RATIO * len(content):
        raise ValueError(f"{len(content)} coded bytes cannot hold {size}")
    decoder = zlib.decompressobj()
    try:
        found = decoder.decompress(content.numpy().tobytes(), size + 1)  # reaches the end, unless there is more
    except zlib.error as error:
        raise ValueError(f"the code is damaged ({error})") from None
    if len(found) != size or not decoder.eof or decoder.unused_data:
        raise ValueError(f"the code does not hold {size} bytes")
    result, end = torch.empty(size, dtype=torch.uint8), 0
    columns = torch.frombuffer(bytearray(found), dtype=torch.uint8) if size else result
    for period, places in _by_kind(runs):
        sizes = [place.stop - place.start for place in places]
        begin, end = end, end + sum(sizes)
        entries = columns[begin:end].view(period, -1).T.flatten()
        for place, part in zip(places, entries.split(sizes), strict=True):
            result[place] = part
    return result


def _by_kind(runs: Iterable[Run]) -> list[tuple[int, list[slice]]]:
    """Return the period and the places of the runs of each kind."""
    found: dict[tuple[str, int], list[slice]] = {}
    end = 0
    for run in runs:
        begin, end = end, end + run.size
        if run.size:
            found.setdefault((run.kind, run.period), []).append(slice(begin, end))
    return [(period, places) for (_, period), places in found.items()]
