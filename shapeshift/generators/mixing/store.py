"""The numbers that templates are cut from."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

# A store is held in pieces of at most this many numbers. Memory allocators hand blocks of this size out again, and
# take larger ones from the system afresh each time: on a CPU, an optimizer's step on one large tensor takes several
# times as long as on its pieces.
_PIECE_SIZE = 2**20


def empty_store(size: int) -> nn.ParameterList:
    """Make a store of a number of uninitialised numbers, in pieces of shape (n, 1).

    Columns, not vectors: optimizers that spare one-dimensional parameters from weight decay (timm's do) are to decay
    the store and to spare the coefficients, and FSDP shards the first axis.
    """
    pieces = math.ceil(size / _PIECE_SIZE)
    ends = [size * piece // pieces for piece in range(pieces + 1)]
    return nn.ParameterList(torch.empty(end - begin, 1) for begin, end in itertools.pairwise(ends))
