"""The shared parameters of a compressed model: their state dict, and what training them without others does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import shapeshift
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import MODELS, Convolutions, gradients, mlp
from tests.tolerances import assert_close

every_model = pytest.mark.parametrize("name", MODELS)


class TestStateDict:
    @every_model
    def test_has_each_shared_tensor_once_and_safetensors_takes_it(self, name: str, tmp_path: Path) -> None:
        model = compressed(MODELS[name].build())
        parameters = list(model.named_parameters(remove_duplicate=False))
        ours = [(path, p) for path, p in parameters if path.startswith("shapeshift.")]
        assert len({id(parameter) for _, parameter in ours}) == len(ours)
        assert len([path for path, _ in parameters if "store" in path]) == len(require_shared(model).generators())
        own = {path: tensor for path, tensor in model.state_dict().items() if path.startswith("shapeshift.")}
        save_file(own, tmp_path / "own.safetensors")
        assert_close(load_file(tmp_path / "own.safetensors"), own, "identical")

    @every_model
    def test_has_no_parameter_without_dimensions(self, name: str) -> None:
        assert all(parameter.dim() >= 1 for parameter in compressed(MODELS[name].build()).parameters())

    def test_of_the_dense_model_is_refused_by_strict_loading(self) -> None:
        model = mlp()
        dense = model.state_dict()
        compressed(model)
        with pytest.raises(shapeshift.GeneratedWeightError, match=r'0\.weight .*init="fit"'):
            model.load_state_dict(dense)


@pytest.mark.parametrize("upsample", ["tile", "interpolate"])
def test_freezing_parts_of_a_compressed_model(upsample: str) -> None:
    model, x = compressed(Convolutions(), 0.5, upsample=upsample), torch.randn(2, 4, 4)
    everything = gradients(model, (x,))
    shared = require_shared(model)
    for path, parameter in shared.named_parameters():
        if path.endswith("coefficients"):
            parameter.requires_grad_(False)
    found = gradients(model, (x,))
    assert not any(path.endswith("coefficients") for path in found)
    assert_close(found, {path: everything[path] for path in found}, "identical")
    shared.requires_grad_(False)
    found = gradients(model, (x,))
    assert not any(path.startswith("shapeshift.") for path in found)
    assert_close(found, {path: everything[path] for path in found}, "identical")
    assert model.conv1.weight.requires_grad is False


def test_freezing_the_stores_leaves_the_coefficients_training() -> None:
    model, x = compressed(mlp(), 0.8, mapping="single", max_templates=2), torch.randn(2, 16)
    everything = gradients(model, (x,))
    group = require_shared(model)["all"]
    group.store[0].requires_grad_(False)
    found = gradients(model, (x,))
    assert "shapeshift.all.coefficients" in found
    assert_close(found, {path: everything[path] for path in found}, "identical")
    group.zero_grad()
    model[0](x).square().sum().backward()
    assert group.coefficients.grad.any(), "a layer called by itself reaches the coefficients too"


def test_materialize_keeps_frozen_what_was_frozen() -> None:
    model = compressed(mlp(), 0.8)
    require_shared(model).requires_grad_(False)
    model[0].bias.requires_grad_(False)
    shapeshift.materialize(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"2.bias", "4.bias", "6.bias"}
