"""The buffer pool: memory is handed out again, and never while a tensor still uses it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from shapeshift.generators.mixing.buffer_pool import BufferPool

SIZES = [2**17, 2**18, 2**17 + 3]
LIKE = torch.empty(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("keeps_all", [False, True])
def test_memory_comes_back_when_the_last_tensor_is_gone(dtype: torch.dtype, keeps_all: bool) -> None:
    memory, like = BufferPool(keeps_all), torch.empty(0, dtype=dtype)
    first = memory.empty(2**18, like)
    assert first.shape == (2**18,)
    assert first.dtype == dtype
    assert first.data_ptr() % 64 == 0
    place = first.data_ptr()
    view = first[5:].detach()  # shares the storage, and outlives the tensor
    del first
    other = memory.empty(2**18, like)
    assert other.data_ptr() != place
    del view, other
    place = memory.empty(2**18, like).data_ptr()
    assert memory.empty(2**18, like).data_ptr() == place


@pytest.mark.parametrize("keeps_all", [False, True])
def test_vectors_do_not_overlap(keeps_all: bool) -> None:
    memory = BufferPool(keeps_all)
    for _ in range(2):
        vectors = [memory.empty(size, LIKE) for size in SIZES]
        for index, vector in enumerate(vectors):
            vector.fill_(index)
        assert all((vector == index).all() for index, vector in enumerate(vectors))
        del vectors, vector


def test_one_buffer_serves_weights_one_after_another() -> None:
    memory = BufferPool()
    place = memory.empty(2**18, LIKE).data_ptr()
    assert [memory.empty(size, LIKE).data_ptr() for size in (2**16, 2**18, 2**17)] == [place] * 3


def test_a_weight_and_what_it_is_stretched_from_have_a_buffer_each() -> None:
    memory, places = BufferPool(), []
    for _ in range(3):
        weight, vector = memory.empty(2**18, LIKE), memory.empty(2**16, LIKE)
        places.append((weight.data_ptr(), vector.data_ptr()))
        del vector, weight
    assert places[0] == places[1] == places[2]


def test_buffers_of_weights_side_by_side_come_back() -> None:
    memory = BufferPool(keeps_all=True)
    places = {size: memory.empty(size, LIKE) for size in SIZES}
    before = {size: vector.data_ptr() for size, vector in places.items()}
    del places
    after = {size: memory.empty(size, LIKE) for size in SIZES}
    assert {size: vector.data_ptr() for size, vector in after.items()} == before


def test_copies_share_no_memory() -> None:
    memory = BufferPool()
    memory.empty(2**18, LIKE)
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert twin.empty(1000, LIKE).data_ptr() != memory.empty(2**18, LIKE).data_ptr()
