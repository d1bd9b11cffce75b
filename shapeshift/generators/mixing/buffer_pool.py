"""Memory that generated weights are written to, again and again."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Tensors begin at cache lines.
_ALIGNMENT = 64

# Smaller memory comes from what glibc has at hand (M_MMAP_THRESHOLD in mallopt(3)).
_SMALL = 2**17

# glibc returns freed memory to the system, and takes it afresh, beyond a size that it learns from what a program frees
# (the same threshold); 32 MiB is the most that it learns.
_LARGEST_LEARNED = 2**25 - 2**14


class BufferPool:
    """A pool of buffers for generated weights; a buffer is lent again once nothing refers to the weight in it.

    On a CPU, large memory comes from the system each time that it is asked for, and touching it for the first time
    takes longer than computing the weight: without the pool, every step would pay for that. A weight holds its buffer
    until the last tensor that shares its memory is gone.

    Args:
        keeps_all: Whether the pool keeps all buffers that come back, for weights that live side by side. Otherwise it
            keeps the two largest of up to 32 MiB, for weights that live one after another: a weight, and the vector
            that it is stretched from.
    """

    def __init__(self, keeps_all: bool = False) -> None:
        self._keeps_all = keeps_all
        #: The buffers that are not lent, by their sizes in bytes.
        self._free: dict[int, list[np.ndarray[Any, Any]]] = {}

    def empty(self, size: int, like: Tensor) -> Tensor:
        """Return an uninitialised vector of the given size, of the dtype and device of ``like``."""
        # Other devices keep freed memory themselves; subclasses, such as fake tensors, stand for no memory of ours.
        if size * like.itemsize < _SMALL or not like.is_cpu or type(like) is not Tensor:
            return like.new_empty(size)
        return torch.frombuffer(self._lend(size * like.itemsize), dtype=like.dtype, count=size)

    def _lend(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        _keep_freed_memory()
        block = self._take(size + _ALIGNMENT)
        lease = (ctypes.c_ubyte * size).from_buffer(block, -block.ctypes.data % _ALIGNMENT)  # type: ignore[arg-type]
        weakref.finalize(lease, _take_back, self._free, block, self._keeps_all).atexit = False
        return lease

    def _take(self, size: int) -> np.ndarray[Any, Any]:
        """Take the smallest free block that is large enough, or make one."""
        fitting = min((found for found, blocks in list(self._free.items()) if blocks and found >= size), default=None)
        if fitting is not None:
            with contextlib.suppress(IndexError, KeyError):  # another thread was faster
                return self._free[fitting].pop()
        return np.empty(size, np.uint8)

    def __reduce__(self) -> tuple[type[BufferPool], tuple[bool]]:
        # A copy shares no memory with the original.
        return BufferPool, (self._keeps_all,)


@functools.cache
def _keep_freed_memory() -> None:
    """Make glibc keep freed memory, by freeing a large block once: the backward pass allocates and frees gradients."""
    torch.empty(_LARGEST_LEARNED, dtype=torch.uint8)


def _take_back(free: dict[int, list[np.ndarray[Any, Any]]], block: np.ndarray[Any, Any], keeps_all: bool) -> None:
    if not keeps_all and block.size > _LARGEST_LEARNED:
        return
    free.setdefault(block.size, []).append(block)
    if not keeps_all:
        largest = sorted((found for blocks in free.values() for found in blocks), key=len)[-2:]
        free.clear()
        for found in largest:
            free.setdefault(found.size, []).append(found)
