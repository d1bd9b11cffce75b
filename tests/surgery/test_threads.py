"""Threads that run and train one compressed model at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from tests.methods import compressed
from tests.models import loss_of, mlp
from tests.tolerances import assert_close


class Meeting(nn.Module):
    """Waits in the middle of each pass until all threads are there."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.meet: Callable[[], object] = lambda: None
        self.threads = threads

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        self.meet()
        return self.second(x)


def test_passes_that_overlap_get_gradients_of_their_own() -> None:
    model, threads = compressed(Meeting(3)), 3
    inputs = torch.randn(threads, 2, 8)
    parameters = list(model.parameters())
    expected = [torch.autograd.grad(loss_of(model(x)), parameters) for x in inputs]
    model.meet = threading.Barrier(threads, timeout=30).wait
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda x: torch.autograd.grad(loss_of(model(x)), parameters), inputs))
    assert_close(found, expected, "identical")


@pytest.mark.parametrize("whole", [True, False])
def test_gradients_of_many_passes_in_threads_add_up(whole: bool) -> None:
    model, batches = compressed(mlp()), torch.randn(40, 2, 16)
    plain = shapeshift.materialize(copy.deepcopy(model))
    run = model if whole else nn.Sequential(*model)
    biases = [model[0].bias, plain[0].bias]
    for x in batches:
        loss_of(run(x)).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda x: loss_of(run(x)).backward(), batches))
    assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected, "reordered gradient")
    for x in batches:
        loss_of(plain(x)).backward()
    assert_close(biases[0].grad, biases[1].grad, "reordered gradient")


def test_a_pass_in_one_thread_is_none_in_another() -> None:
    """A thread that is started inside of a pass reads the same values, with a graph of their own."""
    model, read = compressed(mlp()), []

    def read_elsewhere(*_: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            read.append(pool.submit(lambda: model[2].weight + 0).result())

    model[0].register_forward_hook(read_elsewhere)
    model(torch.randn(2, 16))
    assert_close(read[0], model[2].weight + 0, "identical")
    assert read[0].requires_grad
