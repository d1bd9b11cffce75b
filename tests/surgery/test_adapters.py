"""Modules of torch that need more than a property for each weight: recurrent layers and containers."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import Recurrent, gradients
from tests.tolerances import assert_close


class TestFlatWeights:
    def test_of_recurrent_layers_survive_copies(self) -> None:
        model, x = compressed(Recurrent()), torch.randn(2, 4, 6)
        expected = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double().float()):
            assert_close(twin(x), expected, "identical")
            assert_close(gradients(twin, (x,)), gradients(model, (x,)), "identical")
        shapeshift.materialize(model)
        for parameter, flat in zip(model.gru.parameters(), model.gru._flat_weights, strict=True):
            assert parameter is flat

    def test_of_recurrent_layers_follow_the_stores(self) -> None:
        model, x = compressed(Recurrent()), torch.randn(2, 4, 6)
        before = model(x)
        with torch.no_grad():
            require_shared(model)[next(iter(require_shared(model)))].store[0].mul_(2)
        assert not model(x).equal(before)


class Listed(nn.Module):
    """Runs a slice of a list of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights[:2]:
            x = torch.tanh(x @ weight)
        return x @ self.weights[-1]


def test_a_slice_of_a_parameter_list_keeps_the_gradients() -> None:
    model, x = shapeshift.compress(Listed(), "60%"), torch.randn(4, 8)
    plain = shapeshift.materialize(shapeshift.compress(Listed(), "60%"))
    assert len(model.weights[1:]) == 2
    assert_close(model.weights[1:][0] + 0, model.weights[1] + 0, "identical")
    found = gradients(model, (x,))
    assert found
    assert all(grad.any() for grad in found.values())
    assert isinstance(plain.weights[:2], nn.ParameterList)
