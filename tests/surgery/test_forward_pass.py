"""The weights of one forward pass: which of them it generates anew, and which passes read them."""

from __future__ import annotations

import copy
import gc
import threading

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift import GeneratedWeightError
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import gradients, loss_of, mlp
from tests.stepping import Once, Stepping, Two
from tests.tolerances import assert_close


class TestStaleCache:
    def test_after_an_optimizer_step(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before, weight = model(x), model[0].weight.clone()
        before.square().sum().backward()
        optimizer.step()
        assert not model[0].weight.equal(weight)
        assert not model(x).equal(before)
        assert_close(model(x), copy.deepcopy(model)(x), "identical")

    def test_after_load_state_dict(self) -> None:
        model, other, x = compressed(mlp()), compressed(mlp()), torch.randn(2, 16)
        weight = model[0].weight.clone()
        expected = other(x)
        assert not model(x).equal(expected)
        model.load_state_dict(other.state_dict())
        assert_close(model(x), expected, "identical")
        assert not model[0].weight.equal(weight)

    def test_after_a_copy_into_data(self) -> None:
        model, other, x = compressed(mlp()), compressed(mlp()), torch.randn(2, 16)
        model(x)
        for parameter, source in zip(model.parameters(), other.parameters(), strict=True):
            parameter.data.copy_(source.data)
        for buffer, source in zip(model.buffers(), other.buffers(), strict=True):
            buffer.copy_(source)
        assert_close(model(x), other(x), "identical")
        assert_close(model[0].weight.clone(), other[0].weight.clone(), "identical")

    def test_after_a_forward_that_failed(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        model(x)
        model[2].register_forward_pre_hook(lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            model(x)
        weight = model[0].weight.clone()
        with torch.no_grad():
            for parameter in require_shared(model).parameters():
                parameter.mul_(2)
        assert not model[0].weight.equal(weight), "a forward that failed left its weights behind"


class TestNoGradForward:
    def test_leaves_nothing_detached_to_a_training_forward(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        expected = gradients(model, (x,))
        with torch.no_grad():
            model(x)
        assert_close(gradients(model, (x,)), expected, "identical")
        with torch.inference_mode():
            model(x)
        assert_close(gradients(model, (x,)), expected, "identical")

    def test_around_a_part_that_enables_gradients(self) -> None:
        class Part(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.frozen_part, self.trained_part = nn.Linear(8, 8), nn.Linear(8, 8)

            def forward(self, x: Tensor) -> Tensor:
                x = self.frozen_part(x)
                with torch.enable_grad():
                    return self.trained_part(x)

        model = compressed(Part())
        with torch.no_grad():
            output = model(torch.randn(2, 8))
        output.sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in require_shared(model).parameters())


class TestTwoForwards:
    def test_before_one_backward_both_get_gradients(self) -> None:
        model, a, b = compressed(mlp()), torch.randn(2, 16), torch.randn(2, 16)
        first, second = gradients(model, (a,)), gradients(model, (b,))
        model.zero_grad()
        (loss_of(model(a)) + loss_of(model(b))).backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert_close(found, {name: first[name] + second[name] for name in first}, "reordered gradient")

    def test_before_two_backwards_through_one_graph(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        once = gradients(model, (x,))
        model.zero_grad()
        loss = loss_of(model(x))
        loss.backward(retain_graph=True)
        loss.backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert_close(found, {name: 2 * once[name] for name in once}, "reordered gradient")

    def test_in_threads_with_and_without_gradients(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        expected, stop = model(x), threading.Event()

        def infer() -> None:
            with torch.no_grad():
                while not stop.is_set():
                    model(x)

        thread = threading.Thread(target=infer)
        thread.start()
        try:
            outputs = [model(x) for _ in range(200)]
        finally:
            stop.set()
            thread.join()
        for output in outputs:
            assert_close(output, expected, "identical")
            found = torch.autograd.grad(output.sum(), list(require_shared(model).parameters()))
            assert all(gradient.any() for gradient in found)

    def test_a_model_that_calls_itself(self) -> None:
        class Recursive(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(8, 8)

            def forward(self, x: Tensor, depth: int = 2) -> Tensor:
                x = self.layer(x).tanh()
                return self.layer(self(x, depth - 1)) if depth else x

        model, x = compressed(Recursive()), torch.randn(2, 8)
        expected = gradients(shapeshift.materialize(copy.deepcopy(model)), (x,))
        found = gradients(model, (x,))
        assert_close(found["layer.bias"], expected["layer.bias"], "reordered gradient")


@pytest.mark.parametrize("compress", [False, True])
def test_a_step_between_forward_and_backward_raises_as_in_the_dense_model(compress: bool) -> None:
    model, x = mlp(), torch.randn(2, 16)
    if compress:
        compressed(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    output = model(x).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


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
    model = shapeshift.compress(mlp(256), 0.6)
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


class Writing(Two):
    """Writes to a weight in its first forward pass."""

    started = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.started:
            self.started = True
            nn.init.ones_(self.first.weight)
        return self.second(self.first(x))


def test_a_write_to_a_weight_during_the_forward_pass_is_refused() -> None:
    model, x = shapeshift.compress(Writing(), "60%"), torch.randn(4, 8)
    with pytest.raises(GeneratedWeightError, match=r"first\.weight \(8, 8\).*written to during the forward pass"):
        model(x)
    assert_close(model(x), model(x), "identical")  # the pass that failed left nothing behind
    with torch.inference_mode():
        model(x)


def test_weights_are_not_older_than_a_step_in_the_middle_of_a_pass() -> None:
    torch.manual_seed(0)
    inside = shapeshift.compress(Stepping(), "60%", seed=0)
    outside = shapeshift.compress(Once(), "60%", seed=0)
    outside.load_state_dict(inside.state_dict())
    x = torch.randn(4, 8)
    optimizer = torch.optim.SGD(outside.parameters(), 0.1)
    for _ in range(3):
        loss = outside(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_close(inside(x), loss.detach(), "reordered")
    assert_close(dict(inside.named_parameters()), dict(outside.named_parameters()), "reordered")


def test_a_frozen_model_reads_one_tensor_of_each_weight() -> None:
    model, seen = shapeshift.compress(mlp(), 0.6).requires_grad_(False), []
    model[0].register_forward_hook(lambda layer, *_: seen.extend((layer.weight, layer.weight)))
    model(torch.randn(2, 16, requires_grad=True)).sum().backward()
    assert seen[0] is seen[1]
