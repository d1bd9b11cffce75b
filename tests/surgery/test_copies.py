"""Copies of compressed models are independent of the originals."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

import shapeshift
from shapeshift import ModelError
from tests.methods import compressed
from tests.models import Residual, gradients, mlp, tensors
from tests.tolerances import assert_close


class TestDeepcopy:
    def test_of_a_teacher_is_independent(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        teacher = copy.deepcopy(model)
        expected = model(x).detach()
        torch.optim.SGD(model.parameters(), lr=1.0)
        gradients(model, (x,))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad)
        assert_close(teacher(x), expected, "identical")
        assert not model(x).equal(expected)
        assert all(parameter.grad is None for parameter in teacher.parameters())

    def test_made_inside_a_forward_is_independent(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        copies: list[nn.Module] = []
        handle = model[2].register_forward_hook(lambda *_: copies.append(copy.deepcopy(model)))
        model(x)
        handle.remove()
        with torch.no_grad():
            for parameter in copies[0].parameters():
                parameter.zero_()
        assert not copies[0][0].weight.any(), "the copy reads the original's weights"
        assert model[0].weight.any()

    def test_of_one_layer_keeps_its_value(self) -> None:
        model = compressed(mlp())
        layer, x = copy.deepcopy(model[0]), torch.randn(2, 16)
        with torch.no_grad():
            assert_close(layer(x), model[0](x), "identical")

    def test_timm_ema_copies(self) -> None:
        model, x = compressed(Residual().eval()), torch.randn(2, 3, 5, 5)
        ema = ModelEmaV3(model, decay=0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        ema.update(model)
        expected = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter.sub_(0.5)
        assert_close(tensors(ema.module.eval()(x)), tensors(expected(x)), "reordered")
        swa = torch.optim.swa_utils.AveragedModel(model)
        assert_close(swa(x), model(x), "identical")


def test_a_layer_that_derives_from_a_generated_class_can_be_copied() -> None:
    model, x = shapeshift.compress(mlp(), 0.5), torch.randn(2, 16)
    expected = model(x)
    model[0].__class__ = type("Derived", (type(model[0]),), {})  # as FSDP2 does
    model.load_state_dict(model.state_dict(), assign=True)
    assert_close(copy.deepcopy(model)(x), expected, "identical")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_of_a_traced_model_are_refused(duplicate: Callable[[nn.Module], Any]) -> None:
    model, x = torch.fx.symbolic_trace(mlp(depth=2)), torch.randn(2, 16)
    outputs = shapeshift.compress(model, "60%")(x)
    with pytest.raises(ModelError, match=r"GraphModule cannot be copied .* shapeshift\.save"):
        duplicate(model)
    assert_close(model(x), outputs, "identical")
    assert_close(copy.deepcopy(shapeshift.materialize(model))(x), outputs, "reordered")
