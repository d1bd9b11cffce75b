"""Weights that a model also holds where nothing can follow when they are generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import shapeshift
from shapeshift import ModelError
from tests.models import gradients
from tests.tolerances import assert_close


class Model(nn.Module):
    """Two layers, and an attribute that a test chooses."""

    def __init__(self, hold: Callable[[Any], Any] = lambda model: None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.__dict__["held"] = hold(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def layer_with(weight: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(8, 8)
    layer.weight = weight
    return layer


HOLDINGS = {
    "alone": lambda model: model.first.weight,
    "in a list": lambda model: [model.first.weight],
    "in a dict": lambda model: {"decayed": model.first.weight},
    "in a tuple": lambda model: ("name", model.first.weight),
    "transposed": lambda model: model.first.weight.t(),
    "a row": lambda model: [model.first.weight[0]],
    "in a layer": lambda model: layer_with(model.first.weight),
    "in a list of layers": lambda model: [layer_with(model.first.weight)],
}


@pytest.mark.parametrize("hold", HOLDINGS.values(), ids=HOLDINGS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_are_found_and_refused(hold: Callable[[Any], Any], device: str) -> None:
    with torch.device(device):
        model = nn.Sequential(Model(hold))
    before = list(model.named_parameters())
    with pytest.raises(
        ModelError, match=r"0\.held refers to 0\.first\.weight \(8, 8\).*exclude=\['0\.first\.weight'\]"
    ):
        shapeshift.compress(model, "80%")
    assert [found is now for (_, found), (_, now) in zip(before, model.named_parameters(), strict=True)] == [True] * 4
    shapeshift.compress(model, "80%", exclude=["0.first.weight"])


@pytest.mark.parametrize(
    "hold",
    [
        lambda model: [model.first],  # reads the weight when it is used
        lambda model: [model.first.bias, model.first.weight.detach().clone()],
        lambda model: {"layer": nn.Linear(8, 8)},
        lambda model: [None, "text", torch.ones(3), torch.eye(3).to_sparse()],
    ],
)
def test_what_follows_or_stays_is_allowed(hold: Callable[[Any], Any]) -> None:
    shapeshift.compress(Model(hold), "60%")


def test_a_layer_that_is_held_twice_follows() -> None:
    model, x = shapeshift.compress(Model(lambda model: [model.first]), "60%"), torch.randn(2, 8)
    assert_close(model.held[0](x), F.linear(x, model.first.weight, model.first.bias), "identical")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_lists_that_rnns_keep_of_their_own_weights_are_made_anew(kind: type[nn.RNNBase]) -> None:
    model, x = shapeshift.compress(nn.Sequential(kind(8, 8)), "60%"), torch.randn(2, 3, 8)
    assert gradients(model, (x,))


def test_a_hook_after_the_gradient_has_been_accumulated_is_refused() -> None:
    model = Model()
    handle = model.first.weight.register_post_accumulate_grad_hook(lambda weight: None)
    with pytest.raises(ModelError, match=r"first\.weight \(8, 8\) has a hook .* parameters of model\.shapeshift"):
        shapeshift.compress(model, "60%")
    handle.remove()
    shapeshift.compress(model, "60%")


def test_a_tensor_that_stores_its_values_otherwise_is_refused() -> None:
    model = Model()
    model.first.weight = nn.Parameter(TwoTensor(torch.randn(8, 8), torch.randn(8, 8)))
    with pytest.raises(ModelError, match=r"first\.weight \(8, 8\) is a TwoTensor"):
        shapeshift.compress(model, "60%")
