"""Checkpoints without the frozen parameters, which a freshly built model has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import CheckpointError, ModelError
from tests.tolerances import assert_close


class Tuned(nn.Module):
    """A frozen body, tied to itself, with a norm that counts batches, and a trainable head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Linear(width, width)
        self.again = nn.Linear(width, width)
        self.again.weight = self.body.weight
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("scale", torch.full((), 2.0), persistent=False)
        self.head = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 32))
        self.body.requires_grad_(False)
        self.again.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.again(self.body(x)))) * self.scale  # type: ignore[no-any-return]


def build(seed: int = 0, width: int = 64) -> Tuned:
    torch.manual_seed(seed)
    return Tuned(width)


@pytest.fixture
def model() -> Tuned:
    model = shapeshift.compress(build(), "50%", seed=1)
    optimizer = torch.optim.SGD([found for found in model.parameters() if found.requires_grad], 0.1)
    for _ in range(3):
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
    return model.eval()


def test_the_file_holds_what_was_trained(model: Tuned, tmp_path: Path) -> None:
    shapeshift.save(model, tmp_path / "whole")
    shapeshift.save(model, tmp_path / "part", trainable_only=True)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "part")}
    assert sizes["whole"] - sizes["part"] > 4 * 64 * 64
    assert sizes["part"] < 4 * shapeshift.count_parameters(model) + 1500
    assert not any(name.startswith(("body", "again")) for name in load_file(tmp_path / "part" / "model.safetensors"))
    loaded, x = shapeshift.load(tmp_path / "part", build()).eval(), torch.randn(4, 64)
    assert_close(loaded(x), model(x), "identical")
    assert_close(loaded.norm.running_mean, model.norm.running_mean, "identical")
    assert not loaded.body.weight.requires_grad
    assert loaded.again.weight is loaded.body.weight


def test_it_loads_into_a_model_that_is_compressed_and_in_half_precision(model: Tuned, tmp_path: Path) -> None:
    shapeshift.save(model, tmp_path, trainable_only=True, store="int8")
    x = torch.randn(4, 64)
    rounded = shapeshift.load(tmp_path, build()).eval()
    again = copy.deepcopy(rounded)
    with torch.no_grad():
        for parameter in again.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    assert_close(shapeshift.load(tmp_path, again)(x), rounded(x), "identical")
    half = shapeshift.load(tmp_path, build().to(torch.bfloat16)).eval()
    assert (half(x.bfloat16()).float() - rounded(x)).abs().max() < 0.1


def other_values() -> Tuned:
    return build(seed=5)


def other_shapes() -> Tuned:
    found = build()
    found.body.bias = None
    return found


def another_shape() -> Tuned:
    found = build()
    found.body.bias = nn.Parameter(found.body.bias.detach()[None], requires_grad=False)
    return found


def without_values() -> Tuned:
    with torch.device("meta"):
        return Tuned()


@pytest.mark.parametrize(
    ("fresh", "message"),
    [
        (other_values, r"body\.weight has other values .* load the base model first"),
        (other_shapes, r"body\.bias \(64,\) was left out of the checkpoint and is not in the model"),
        (another_shape, r"body\.bias is \(64,\) beside the checkpoint and \(1, 64\) in the model"),
        (without_values, r"\S+ is on the meta device .* give the model its values first"),
    ],
    ids=["other values", "another parameter", "another shape", "no values"],
)
def test_another_base_is_refused_and_unchanged(
    fresh: Callable[[], Tuned], message: str, model: Tuned, tmp_path: Path
) -> None:
    shapeshift.save(model, tmp_path, trainable_only=True)
    target = fresh()
    with pytest.raises(CheckpointError, match=rf"(?s){message}"):
        shapeshift.load(tmp_path, target)
    assert not shapeshift.is_compressed(target)


def test_a_model_without_a_trainable_parameter_is_refused(model: Tuned, tmp_path: Path) -> None:
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter of Tuned is trainable"):
        shapeshift.save(model, tmp_path / "new", trainable_only=True)
    assert not (tmp_path / "new").exists()
    shapeshift.save(model, tmp_path)
    x = torch.randn(4, 64)
    assert_close(shapeshift.load(tmp_path, build(seed=3)).eval()(x), model(x), "identical")
