"""What a model does in the middle of its own forward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import shapeshift
from shapeshift import GeneratedWeightError
from tests.models import gradients
from tests.tolerances import assert_close


class Listed(nn.Module):
    """Runs a slice of a list of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights[:2]:
            x = torch.tanh(x @ weight)
        return x @ self.weights[-1]


class Running(nn.Module):
    """Runs all of its children."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([child(x) for child in self.children()])


class Two(nn.Module):
    """Two layers, which subclasses run in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)


class Writing(Two):
    """Writes to a weight in its first forward pass."""

    started = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.started:
            self.started = True
            nn.init.ones_(self.first.weight)
        return self.second(self.first(x))


class Stepping(Two):
    """Trains itself when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        for _ in range(3):
            loss = self.second(torch.tanh(self.first(x))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()


class Once(Stepping):
    """Its twin, which is trained from outside."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))).square().mean()


def test_a_slice_of_a_parameter_list_keeps_the_gradients() -> None:
    model, x = shapeshift.compress(Listed(), "60%"), torch.randn(4, 8)
    plain = shapeshift.materialize(shapeshift.compress(Listed(), "60%"))
    assert len(model.weights[1:]) == 2
    assert_close(model.weights[1:][0] + 0, model.weights[1] + 0, "identical")
    found = gradients(model, (x,))
    assert found
    assert all(grad.any() for grad in found.values())
    assert isinstance(plain.weights[:2], nn.ParameterList)


def test_a_forward_that_runs_all_children_runs_the_models_own() -> None:
    model, x = shapeshift.compress(Running(), "60%"), torch.randn(4, 8)
    outputs = model(x)
    assert len(outputs) == 3
    assert_close(shapeshift.materialize(model)(x), outputs, "reordered")


def test_who_leaves_out_the_last_child_leaves_out_the_models_own() -> None:
    model, x = shapeshift.compress(Running(), "60%"), torch.randn(4, 8)
    shorter = nn.Sequential(*list(model.children())[:-1])
    assert_close(shorter(x), model.second(model.first(x)), "reordered")
    shorter(x).sum().backward()
    assert any(parameter.grad is not None for parameter in shorter.parameters())
    assert next(iter(model.state_dict())).startswith("shapeshift.")


def test_a_write_to_a_weight_during_the_forward_pass_is_refused() -> None:
    model, x = shapeshift.compress(Writing(), "60%"), torch.randn(4, 8)
    with pytest.raises(GeneratedWeightError, match=r"first\.weight \(8, 8\).*written to during the forward pass"):
        model(x)
    assert_close(model(x), model(x), "identical")  # the pass that failed left nothing behind
    with torch.inference_mode():
        model(x)


class Broken(Two):
    """Leaves the compiler's graph between its layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which the compiler looks at
def test_a_graph_that_breaks_in_the_middle_of_a_pass() -> None:
    model, x = shapeshift.compress(Broken(), "60%"), (torch.randn(4, 8),)
    expected = gradients(model, x)
    compiled = torch.compile(model, backend="eager")
    assert_close(compiled(*x), model(*x), "reordered")
    found = gradients(compiled, x)
    assert_close({name.removeprefix("_orig_mod."): grad for name, grad in found.items()}, expected, "reordered")
    # The compiler gave up on the forward pass of this class, and not on those of others.
    other, counter = shapeshift.compress(Once(), "60%"), CompileCounter()
    assert_close(torch.compile(other, backend=counter)(*x), other(*x), "reordered")
    assert counter.frame_count == 1


def test_embeddings_that_scale_their_rows_do_so_to_a_copy() -> None:
    model = nn.Sequential(nn.Embedding(20, 8, max_norm=0.5), nn.Linear(8, 8))
    nn.init.normal_(model[0].weight)
    shapeshift.compress(model, "60%")
    tokens = torch.arange(20)
    outputs = model(tokens)
    assert model[0](tokens).norm(dim=1).max() < 0.5 + 1e-5
    assert F.embedding(tokens, model[0].weight + 0).norm(dim=1).max() > 0.5
    assert_close(shapeshift.materialize(model)(tokens), outputs, "reordered")


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
