"""Loading the state dict of a plain model into a compressed one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift import GeneratedWeightError
from tests.methods import compressed
from tests.models import mlp
from tests.tolerances import assert_close


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: nn.Sequential(model, nn.Tanh())])
def test_a_plain_state_dict_is_refused(wrap: Any, strict: bool) -> None:
    plain = mlp()
    model = compressed(copy.deepcopy(plain))
    wrapped, state = wrap(model), wrap(plain).state_dict()
    before = copy.deepcopy(wrapped.state_dict())
    with pytest.raises(GeneratedWeightError, match=r'0\.weight \(16, 16\) is generated.*plain.*init="fit"'):
        wrapped.load_state_dict(state, strict=strict)
    assert_close(wrapped.state_dict(), before, "identical")


def test_a_state_dict_of_a_part_that_is_not_generated_is_loaded() -> None:
    model = compressed(mlp())
    result = model.load_state_dict({"0.bias": torch.ones(16)}, strict=False)
    assert not result.unexpected_keys
    assert model[0].bias.sum() == 16


def test_the_remedy_gives_the_plain_model() -> None:
    plain, x = mlp(), torch.randn(2, 16)
    other = mlp()
    other.load_state_dict(plain.state_dict())
    assert_close(shapeshift.compress(other, "120%", init="fit", mapping="shape")(x), plain(x), "fitted")


def test_a_layer_that_was_replaced_by_a_plain_one_is_loaded() -> None:
    model = compressed(mlp())
    model[0] = nn.Linear(16, 16)
    other = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.zero_()
    other.load_state_dict(model.state_dict())
    assert_close(other.state_dict(), model.state_dict(), "identical")
