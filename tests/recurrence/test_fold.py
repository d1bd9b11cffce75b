"""Folding a model into its recurrent form: outputs, gradients, copies, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import shapeshift
from shapeshift.errors import ConfigError, ModelError
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import (
    fold,
    similarity,
    soft_share,
)
from shapeshift.recurrence.repeat import Repeat
from shapeshift.surgery.roots import require_shared
from tests.foldable import FOLDED, alternate, coefficients, folded, generated, images, members, wrn
from tests.models import gradients, mlp, tensors
from tests.tolerances import assert_close


@pytest.mark.parametrize("name", ["wide resnet", "torch encoder"])
def test_the_recurrent_form_has_the_models_gradients(name: str) -> None:
    model, x, folding = folded(name)
    expected = gradients(model, x)
    found = gradients(folding.module, x)
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        assert_close(found[key], gradient, "reordered gradient")


@pytest.mark.parametrize("name", FOLDED)
def test_layers_that_differ_by_a_factor_are_folded_without_a_change(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = FOLDED[name]
    model, x = soft_share(build(), 2), inputs()
    alternate(model)
    before = [generated(model, name) for names in members(model).values() for name in names]
    folding = fold(model, 0.999)
    after = [generated(model, name) for names in members(model).values() for name in names]
    assert_close(after, before, "reordered")
    assert all(group.change < 1e-5 for group in folding.groups)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(model(*x)))


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold must be above 0 and at most 1"):
        fold(soft_share(wrn(), 2), threshold)


def test_what_cannot_be_folded_is_refused_and_the_model_unchanged() -> None:
    model = soft_share(wrn(), 2)
    plan = require_shared(model).plan
    coefficients(model, "stage3_32x32x3x3")[1] = float("nan")
    with pytest.raises(ModelError, match="coefficients of stage3_32x32x3x3 are not finite"):
        fold(model)
    assert require_shared(model).plan is plan
    with torch.device("meta"):
        on_meta = soft_share(wrn(), 2)
    with pytest.raises(ModelError, match="stage1_8x8x3x3 is on the meta device"):
        fold(on_meta)
    plain = mlp(16, 3)
    budget = shapeshift.count_parameters(plain) - 2 * 16 * 16
    averaged = shapeshift.compress(plain, budget, include=["0", "2", "4"], mapping="shape", combine="avg")
    assert_close(similarity(averaged)["16x16"], torch.ones(3, 3), "reordered")
    with pytest.raises(ModelError, match='combine="wavg"'):
        fold(averaged)


def test_a_frozen_store_stays_frozen() -> None:
    model = soft_share(wrn(), 2)
    alternate(model)
    for group in require_shared(model).generators():
        group.store.requires_grad_(False)
    fold(model, 0.999)
    assert not any(piece.requires_grad for group in require_shared(model).generators() for piece in group.store)


def test_the_recurrent_form_survives_copies_and_compilation() -> None:
    model, x, folding = folded("torch encoder")
    model.eval()
    folding.module.eval()
    expected = tensors(model(*x))
    copied = copy.deepcopy(folding.module)
    for module in (copied, pickle.loads(pickle.dumps(folding.module)), torch.compile(folding.module, backend="eager")):
        assert_close(tensors(module(*x)), expected, "identical")
    for group in require_shared(model).generators():
        group.store[0].data.zero_()
    assert_close(tensors(copied(*x)), expected, "identical")


@pytest.mark.parametrize("name", ["wide resnet", "torch encoder"])
def test_the_recurrent_form_is_a_compressed_model_too(name: str, tmp_path: Path) -> None:
    model, x, folding = folded(name)
    expected = tensors(model.eval()(*x))
    shapeshift.save(folding.module.eval(), tmp_path)
    torch.manual_seed(0)
    fresh = FOLDED[name][0]()
    assert_close(tensors(shapeshift.load(tmp_path, fresh).eval()(*x)), expected, "identical")
    again = fold(folding.module, 0.999)
    assert (again.before, again.after) == (folding.after, folding.after)
    assert_close(tensors(again.module.eval()(*x)), expected, "reordered")
    module = folding.module.double().eval()
    assert {value.dtype for value in tensors(module(*(part.double() for part in x)))} == {torch.float64}
    plain = shapeshift.materialize(module.float())
    assert not shapeshift.is_compressed(plain)
    assert_close(tensors(plain(*x)), expected, "reordered")


def test_checkpointing_within_blocks_that_run_again() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(8), nn.Linear(8, 8)

        def branch(self, x: Tensor) -> Tensor:
            return x + self.inner(torch.tanh(self.norm(x)))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.branch, x, use_reentrant=False)

    torch.manual_seed(0)
    model = soft_share(nn.Sequential(*(Block() for _ in range(3))), 2)
    with torch.no_grad():
        for name in members(model):
            coefficients(model, name).copy_(torch.tensor([[1.0, 0.5], [2.0, 1.0], [-1.0, -0.5]]))
        for block in model:
            block.norm.weight.normal_()
    folding, x = fold(model), (torch.randn(4, 8),)
    assert isinstance(folding.module[2], Repeat)
    assert_close(gradients(folding.module, x), gradients(model, x), "reordered gradient")


def test_layers_alone_are_folded_without_blocks() -> None:
    torch.manual_seed(0)
    model = soft_share(nn.Sequential(*(nn.Linear(8, 8) for _ in range(6))), 2)
    alternate(model)
    folding, x = fold(model, 0.999), torch.randn(2, 8)
    assert folding.after < folding.before
    expected = model(x)
    assert_close(folding.module(x), expected, "identical")
    fold(folding.module, 0.5)
    assert torch.isfinite(folding.module(x)).all()


def test_half_precision_layers_are_folded() -> None:
    torch.manual_seed(0)
    model = soft_share(wrn().bfloat16(), 2)
    alternate(model)
    folding = fold(model, 0.99)
    assert [schedule.blocks for schedule in folding.schedules] == [(0, 0)] * 3
    x = images()[0].bfloat16()
    assert folding.module.eval()(x).equal(model.eval()(x))


def test_a_model_that_cannot_be_copied_is_left_unfolded() -> None:
    model = soft_share(WideResNet(16, 0.5, in_channels=1), 2)
    model.generator = (value for value in range(3))  # cannot be copied
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TypeError, match="generator"):
        fold(model, 0.01)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
