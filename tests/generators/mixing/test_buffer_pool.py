"""The buffer pool: memory is handed out again, and never while a tensor still uses it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from shapeshift.generators.mixing.buffer_pool import BufferPool

SIZES = [3, 1000, 17]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_memory_comes_back_when_the_last_tensor_is_gone(dtype: torch.dtype) -> None:
    memory, like = BufferPool(), torch.empty(0, dtype=dtype)
    first = memory.empty(SIZES, like)
    assert [tuple(tensor.shape) for tensor in first] == [(size,) for size in SIZES]
    assert all(tensor.dtype == dtype and tensor.data_ptr() % 64 == 0 for tensor in first)
    place = first[0].data_ptr()
    view = first[1][5:].detach()  # shares the storage, and outlives the tensor
    del first
    assert memory.empty(SIZES, like)[0].data_ptr() != place
    del view
    place = memory.empty(SIZES, like)[0].data_ptr()
    assert memory.empty(SIZES, like)[0].data_ptr() == place


def test_vectors_of_one_pass_do_not_overlap() -> None:
    vectors = BufferPool().empty(SIZES, torch.empty(0))
    for index, vector in enumerate(vectors):
        vector.fill_(index)
    assert all((vector == index).all() for index, vector in enumerate(vectors))
    assert len({vector.untyped_storage().data_ptr() for vector in vectors}) == len(SIZES)


def test_copies_share_no_memory() -> None:
    memory, like = BufferPool(), torch.empty(0)
    memory.empty(SIZES, like)
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert twin.empty(SIZES, like)[0].data_ptr() != memory.empty(SIZES, like)[0].data_ptr()
