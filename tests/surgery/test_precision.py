"""Compressed models in other precisions."""

from __future__ import annotations

import copy

import pytest
import torch

import shapeshift
from tests.methods import compressed
from tests.models import MODELS, Language, gradients, loss_of, mlp, tensors
from tests.tolerances import assert_close


@pytest.mark.parametrize("name", ["mlp", "convolutions", "language"])
def test_autocast(name: str) -> None:
    model, inputs = compressed(MODELS[name].build()), MODELS[name].inputs()
    plain = shapeshift.materialize(copy.deepcopy(model))
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = model(*inputs), plain(*inputs)
    assert_close(tensors(output), tensors(expected), "identical")
    loss_of(output).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("upsample", ["tile", "interpolate"])
def test_bfloat16(when: str, upsample: str) -> None:
    model = mlp()
    if when == "before":
        model.bfloat16()
    compressed(model, upsample=upsample, mapping="single")
    if when == "after":
        model.bfloat16()
    x = torch.randn(2, 16, dtype=torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert all(gradient.isfinite().all() for gradient in gradients(model, (x,)).values())
    expected = model(x)
    assert expected.dtype == torch.bfloat16
    shapeshift.materialize(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_close(model(x), expected, "identical")


def test_dtype_and_device_moves() -> None:
    model, x = shapeshift.compress(Language(), 0.5).eval(), torch.randint(31, (2, 6))
    expected = model(x)
    assert_close(model.double()(x), expected.double(), "reordered")
    assert model.embedding.weight.dtype == torch.float64
    materialized = shapeshift.materialize(model)
    assert {parameter.dtype for parameter in materialized.parameters()} == {torch.float64}
    assert tensors(materialized(x))[0].dtype == torch.float64
