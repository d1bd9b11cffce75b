"""The store of a group: the shared entries that templates are slices of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# A store is held in pieces of at most this many entries. Memory allocators reuse blocks of this size, and take larger
# ones from the system each time: on a CPU, an optimizer's step on one large tensor takes several times as long as on
# its pieces.
_PIECE_SIZE = 2**20


def empty_store(size: int) -> nn.ParameterList:
    """Make a store of uninitialised entries, in pieces of shape (n, 1).

    Columns, not vectors: optimizers that spare one-dimensional parameters from weight decay (timm's do) are to decay
    the store and to spare the coefficients, and FSDP shards the first axis.
    """
    pieces = math.ceil(size / _PIECE_SIZE)
    ends = [size * piece // pieces for piece in range(pieces + 1)]
    return nn.ParameterList(torch.empty(end - begin, 1) for begin, end in itertools.pairwise(ends))


def fill_store(store: nn.ParameterList, rng: torch.Generator | None, stds: Callable[[int, int], Tensor]) -> None:
    """Draw a store's entries from normal distributions.

    Args:
        store: The store; it is changed in place, piece by piece.
        rng: The generator of random numbers.
        stds: Returns the standard deviations of the entries from a first one up to another.
    """
    begin = 0
    for piece in store:
        end = begin + len(piece)
        piece.copy_(torch.randn(piece.shape, generator=rng) * stds(begin, end).unsqueeze(1))
        begin = end


#: The entries that a weight reads, its standard deviation, and how often it reads each of them.
Reader = tuple[slice, float, float]


def readers_between(readers: Iterable[Reader], begin: int, end: int) -> list[Reader]:
    """Return what readers read of the entries from ``begin`` up to ``end``, counted from ``begin``."""
    return [
        (slice(max(read.start, begin) - begin, min(read.stop, end) - begin), std, often)
        for read, std, often in readers
        if read.start < end and read.stop > begin
    ]


def reader_stds(
    size: int,
    readers: Iterable[Reader],
    default: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the standard deviation that each entry starts with: that of the weights that read it.

    A gradient step on an entry moves a weight by the square of its gain, compared with a step on the weight itself.
    Where weights of different deviations read the same entries, the root mean square lies between them.

    Args:
        size: The number of entries.
        readers: For each weight the entries that it reads, its standard deviation, and how often it reads each of
            them. Weights that start at zero do not count.
        default: The standard deviation of entries that only weights which start at zero read.
        dtype: The dtype of the result.

    Returns:
        The standard deviations, of shape (size,).
    """
    times, squares = torch.zeros(2, size, dtype=dtype, device="cpu")  # whatever the user's default device is
    for entries, std, often in readers:
        if std > 0:
            times[entries] += often
            squares[entries] += often * std**2
    return torch.where(times > 0, squares / times, default**2).sqrt()
