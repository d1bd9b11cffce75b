"""Memory that is handed out again, and never while anybody holds it."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift.generators.mixing.buffer_pool import BufferPool
from shapeshift.surgery.roots import require_shared
from tests.models import gradients, loss_of, mlp
from tests.tolerances import assert_close

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


def test_weights_of_a_pass_that_somebody_holds_keep_their_values() -> None:
    held: list[torch.Tensor] = []

    class Holder(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            held.append(self.weight.detach())
            return super().forward(x)

    model = shapeshift.compress(nn.Sequential(Holder(16, 16), nn.Linear(16, 16)), 0.6)
    model(torch.randn(2, 16)).sum().backward()
    kept = held[0].clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model(torch.randn(2, 16)).sum().backward()
    assert held[0].equal(kept)
    assert not held[1].equal(kept)


def test_the_passes_of_a_model_use_memory_again() -> None:
    model = shapeshift.compress(mlp(), 0.6)
    (source,) = require_shared(model).sources
    places = []
    for _ in range(3):
        source.begin()
        places.append(source.read(0).data_ptr())
        source.end()
        gc.collect()
    assert places[0] == places[1] == places[2]


def test_two_passes_before_one_backward_have_weights_of_their_own() -> None:
    torch.manual_seed(0)
    model, x = shapeshift.compress(mlp(), 0.6), torch.randn(4, 16)
    expected = gradients(model, (x,))
    model.zero_grad()
    first = model(x)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 16))
    second = model(x)
    assert_close(first, second, "identical")
    loss_of(first).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_close(found, expected, "identical")


def test_a_failed_backward_pass_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    model, x = shapeshift.compress(mlp(), 0.6), torch.randn(4, 16)
    expected = gradients(model, (x,))
    model.zero_grad()
    weights: list[torch.Tensor] = []
    model[0].register_forward_hook(lambda *_: weights.append(model[0].weight))
    loss = loss_of(model(x))
    handle = weights[0].register_hook(lambda _: 1 / 0)  # the last gradient to arrive
    with pytest.raises(ZeroDivisionError):
        loss.backward(retain_graph=True)
    handle.remove()
    model.zero_grad()
    loss.backward()
    assert_close({name: p.grad for name, p in model.named_parameters()}, expected, "identical")
