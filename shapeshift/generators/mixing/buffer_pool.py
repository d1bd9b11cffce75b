"""Memory for generated weights that one forward pass after another writes to."""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Tensors begin at cache lines.
_ALIGNMENT = 64

# glibc returns freed memory to the system, and takes it afresh, beyond a size that it learns from what a program frees
# (M_MMAP_THRESHOLD in mallopt(3)); 32 MiB is the most that it learns.
_LARGEST_LEARNED = 2**25 - 2**14


class BufferPool:
    """A pool of buffers for the weights of one forward pass; a buffer is reused once nothing refers to it.

    The weights of a pass are as large as the model and die with its graph. On a CPU, memory of that size comes from
    the system each time, and touching it for the first time takes longer than computing the weights: without the pool,
    every step pays for that. The pool keeps one block. The tensors of a pass hold it through the buffer that they are
    made from; when the last of them is gone, the block is free again. A pass that starts earlier gets a block of its
    own.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray[Any, Any]] = []

    def empty(self, sizes: Sequence[int], like: Tensor) -> list[Tensor]:
        """Return uninitialised vectors of the given sizes, of the dtype and device of ``like``."""
        # Other devices keep freed memory themselves; subclasses, such as fake tensors, stand for no memory of ours.
        if not like.is_cpu or type(like) is not Tensor:
            return [like.new_empty(size) for size in sizes]
        begins = [0]
        for size in sizes:
            begins.append(begins[-1] + math.ceil(size * like.itemsize / _ALIGNMENT) * _ALIGNMENT)
        lease = self._lend(begins[-1])
        return [
            torch.frombuffer(lease, dtype=like.dtype, count=size, offset=begin)
            for size, begin in zip(sizes, begins[:-1], strict=True)
        ]

    def _lend(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        _keep_freed_memory()
        try:
            block = self._kept.pop()
        except IndexError:
            block = np.empty(0, np.uint8)
        if block.size != size + _ALIGNMENT:
            block = np.empty(size + _ALIGNMENT, np.uint8)
        lease = (ctypes.c_ubyte * size).from_buffer(block, -block.ctypes.data % _ALIGNMENT)  # type: ignore[arg-type]
        weakref.finalize(lease, _keep, self._kept, block).atexit = False
        return lease

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        # A copy shares no memory with the original.
        return BufferPool, ()


@functools.cache
def _keep_freed_memory() -> None:
    """Make glibc keep freed memory, by freeing a large block once: the backward pass allocates and frees gradients."""
    torch.empty(_LARGEST_LEARNED, dtype=torch.uint8)


def _keep(kept: list[np.ndarray[Any, Any]], block: np.ndarray[Any, Any]) -> None:
    """Take a block back; one is enough."""
    kept[:] = [block]
