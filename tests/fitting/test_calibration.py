"""Calibration of a fit with batches, and the errors that it weighs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift.fitting import calibrate
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.weights import find_weights
from tests.fitted import build_again, correlated, errors_of, gpt2
from tests.models import Convolutions, Language
from tests.tolerances import assert_close


@pytest.mark.parametrize("mapping", ["single", "shape"])
@pytest.mark.parametrize("budget", ["100%", "150%"])
def test_calibration_loses_nothing_where_there_is_room_for_everything(budget: str, mapping: str) -> None:
    torch.manual_seed(0)
    original, x = WideResNet(10, 0.5).eval(), torch.randn(16, 3, 8, 8).cumsum(-1)
    model = shapeshift.compress(copy.deepcopy(original), budget, mapping=mapping, init="fit", calibration=[x])
    assert_close(model.eval()(x), original(x), "fitted")


def test_calibration_lowers_the_error_of_outputs_on_other_inputs() -> None:
    for budget in (0.5, 0.75):
        original = build_again()
        held_out = correlated(256, seed=2)
        expected = original(held_out)
        off = {}
        for name, loader in (("plain", None), ("calibrated", [(correlated(128, seed=1), None)] * 2)):
            model = shapeshift.compress(copy.deepcopy(original), budget, init="fit", calibration=loader, seed=0)
            off[name] = ((model(held_out) - expected).norm() / expected.norm()).item()
        assert off["calibrated"] < 0.7 * off["plain"]


class Conv1D(nn.Conv1d):
    """A convolution that is called as GPT-2's linear layer is."""


def cases() -> Iterator[Any]:
    conv = {"stride": 2, "padding": 1, "dilation": 2, "bias": False}
    yield pytest.param(nn.Linear(6, 5, bias=False), torch.randn(7, 3, 6), id="linear")
    yield pytest.param(nn.Conv1d(1, 4, 3, bias=False), torch.randn(5, 1, 9), id="conv1d")
    yield pytest.param(Conv1D(1, 4, 3, bias=False), torch.randn(5, 1, 9), id="conv1d of that name")
    yield pytest.param(nn.Conv2d(1, 4, 3, **conv), torch.randn(3, 1, 9, 8), id="conv2d")
    yield pytest.param(nn.Conv2d(6, 4, 1, bias=False), torch.randn(3, 6, 5, 4), id="pointwise")
    yield pytest.param(nn.Conv2d(6, 4, 1, groups=2, bias=False), torch.randn(3, 6, 5, 4), id="groups")
    yield pytest.param(
        nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular", bias=False), torch.randn(3, 1, 5, 4), id="circular"
    )
    yield pytest.param(nn.Conv3d(1, 4, 2, bias=False), torch.randn(3, 1, 4, 5, 4), id="conv3d")
    yield pytest.param(nn.Embedding(9, 4), torch.randint(9, (6, 5)), id="embedding")
    yield pytest.param(transformers.pytorch_utils.Conv1D(5, 6), torch.randn(7, 3, 6), id="transposed")


@pytest.mark.parametrize(("layer", "inputs"), list(cases()))
def test_an_error_map_measures_the_error_of_a_layers_outputs(
    layer: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Exact where the input has one channel, or the kernel one position: there the product of two moments is the moment.
    monkeypatch.setattr("shapeshift.fitting.moments._DAMPING", 1e-9)
    model = nn.Sequential(layer)
    (weight,) = find_weights(model)
    error_map = calibrate(model, [weight], [inputs[:2], (inputs[2:], "a label")])[weight.name]
    sizes = []
    for _ in range(3):
        difference = torch.randn(weight.shape)
        broken = copy.deepcopy(layer)
        broken.weight.data += difference
        sizes.append((error_map(difference).norm() / (broken(inputs) - layer(inputs)).norm()).item())
    assert max(sizes) == pytest.approx(min(sizes), rel=1e-3)


def test_a_tied_weight_is_judged_by_all_of_its_layers() -> None:
    model = Language().eval()
    tokens = torch.randint(31, (4, 6))
    weights = find_weights(model)
    error_maps = calibrate(model, weights, [{"tokens": tokens}])
    tied = next(weight for weight in weights if len(weight.names) == 2)
    difference = torch.randn(tied.shape)
    alone = calibrate(Language(tied=False).eval(), find_weights(Language(tied=False)), [tokens])
    assert error_maps[tied.name](difference).numel() == 2 * difference.numel()
    assert alone["embedding.weight"](difference).numel() == difference.numel()
    # Attention reads its projection without calling a layer.
    assert "attention.in_proj_weight" not in error_maps
    assert "encoder.layers.0.linear1.weight" in error_maps


def test_calibration_leaves_the_model_as_it_was() -> None:
    model = Convolutions()
    model.norm.eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    calibrate(model, find_weights(model), [torch.randn(2, 4, 4)])
    assert_close(dict(model.state_dict()), dict(state), "identical")
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("batch", ["tensor", "tuple", "dict"])
def test_every_kind_of_batch_calibrates(batch: str) -> None:
    tokens = torch.randint(1, 40, (2, 8))
    loader = [{"tensor": tokens, "tuple": (tokens, tokens), "dict": {"input_ids": tokens, "labels": tokens}}[batch]]
    model = shapeshift.compress(gpt2(), 0.6, init="fit", calibration=iter(loader), seed=0)
    assert shapeshift.is_compressed(model)
    assert 0 < max(errors_of(model).values()) < 1.5
    assert model(tokens).logits.isfinite().all()
