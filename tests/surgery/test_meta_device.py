"""Compressed models on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift.generators import GENERATORS
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import MODELS, mlp, tensors
from tests.tolerances import assert_close


class TestMetaDevice:
    def test_compress_allocates_no_dense_weight(self) -> None:
        with torch.device("meta"):
            model = nn.Sequential(*(nn.Linear(2**18, 2**18) for _ in range(4)))  # 1 TiB
            compressed(model, 2_000_000)
        assert all(tensor.is_meta for tensor in [*model.parameters(), *require_shared(model).buffers()])
        assert 0.99 * 2_000_000 <= shapeshift.count_parameters(model) <= 2_000_000

    @pytest.mark.parametrize("budget", [0.4, 2.0])
    @pytest.mark.parametrize("name", ["mlp", "convolutions", "language", "recurrent"])
    def test_to_empty_and_reset_parameters_start_like_a_model_made_on_the_cpu(self, name: str, budget: float) -> None:
        with torch.device("meta"):
            model = MODELS[name].build()
        compressed(model, budget, seed=1)
        model.to_empty(device="cpu")
        for module in model.modules():
            if module is not model.shapeshift and not shapeshift.surgery.layers.is_attached(module):
                reset = getattr(module, "reset_parameters", lambda: None)
                reset()
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if not path.startswith("shapeshift."):
                    parameter.fill_(0.5)
        model.shapeshift.reset_parameters()
        for group in require_shared(model).generators():
            for weight, value in zip(group.weights, group.generate(range(len(group.weights))), strict=True):
                assert_close(value.std(correction=0).item(), weight.std, "starting deviation")
        output = model(*MODELS[name].inputs())
        assert all(tensor.isfinite().all() for tensor in tensors(output))


@pytest.mark.parametrize("combine", list(GENERATORS))
def test_a_model_on_the_meta_device_runs_and_is_materialized_there(combine: str) -> None:
    with torch.device("meta"):
        model, x = shapeshift.compress(mlp(), 1.0, combine=combine), torch.randn(2, 16)
        assert model(x).shape == mlp()(x).shape
        assert model[0].weight.t().is_meta
        model(x).sum().backward()
    assert all(tensor.is_meta for tensor in shapeshift.materialize(model).parameters())
