"""Starting values that are no noise are warned about, or kept, and noise is left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import ModelError, ShapeshiftWarning
from shapeshift.weights import find_weights
from tests.models import MODELS
from tests.tolerances import assert_close


def repeated(weight: Tensor) -> None:
    nn.init.normal_(weight)
    weight.data[1::2] = weight.data[::2]


def steps(weight: Tensor) -> None:
    weight.data.copy_(torch.arange(1.0, weight.shape[1] + 1).log().expand_as(weight))


STARTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "orthogonal": (nn.init.orthogonal_, "orthogonal rows or columns"),
    "scaled": (lambda weight: nn.init.orthogonal_(weight, 0.01), "orthogonal rows or columns"),
    "identity": (nn.init.eye_, "zeros among other values"),
    "sparse": (lambda weight: nn.init.sparse_(weight, 0.3), "zeros among other values"),
    "repeated": (repeated, "linearly dependent rows or columns"),
    "steps": (steps, "linearly dependent rows or columns"),
}


def network(*inits: Callable[[Tensor], Any]) -> nn.Sequential:
    layers = [nn.Linear(24, 24), nn.Linear(24, 48), nn.Linear(48, 24)]
    for layer, init in zip(layers, inits, strict=False):
        init(layer.weight)
    return nn.Sequential(*layers)


class TestLayers:
    @pytest.mark.parametrize("start", STARTS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_are_named_once(self, start: str, dtype: torch.dtype) -> None:
        init, kind = STARTS[start]
        model = network(nn.init.normal_, init, init).to(dtype)
        with pytest.warns(
            ShapeshiftWarning, match=rf"^1\.weight \(48, 24\), 2\.weight .* {kind}.*init=.*exclude="
        ) as said:
            shapeshift.compress(model, "60%")
        assert len(said) == 1

    def test_of_convolutions_are_named(self) -> None:
        model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
        nn.init.dirac_(model[1].weight)
        with pytest.warns(ShapeshiftWarning, match=r"^1\.weight \(8, 8, 3, 3\) start with zeros"):
            shapeshift.compress(model, "60%")

    @pytest.mark.parametrize("options", [{"init": "fit"}, {"exclude": ["1.weight"]}])
    def test_are_kept_where_they_are_asked_for(self, options: dict[str, Any]) -> None:
        model = network(nn.init.normal_, nn.init.orthogonal_)
        x = torch.randn(4, 24)
        plain = copy.deepcopy(model)
        shapeshift.compress(model, "100%", **options)
        if options == {"init": "fit"}:
            assert_close(model(x), plain(x), "reordered")
        assert_close(model[1].weight.clone(), plain[1].weight, "reordered")

    def test_are_named_by_a_plan_that_changes_nothing(self) -> None:
        plan = shapeshift.plan_compression(network(nn.init.orthogonal_), "60%")
        assert [weight.structure for weight in plan.weights] == ["orthogonal rows or columns", "", ""]
        assert plan == type(plan).from_dict(plan.to_dict())

    @pytest.mark.parametrize("name", MODELS)
    def test_that_start_as_noise_are_left_alone(self, name: str) -> None:
        for seed in range(5):
            torch.manual_seed(seed)
            assert {weight.structure for weight in find_weights(MODELS[name].build())} == {""}

    @pytest.mark.parametrize(
        "shape", [(2, 2), (2, 5), (3, 3), (4, 3), (6, 2), (2, 64), (3, 1000), (64, 4), (8, 8, 1, 1)]
    )
    def test_of_any_shape_are_left_alone(self, shape: tuple[int, ...]) -> None:
        net = nn.Module()
        for number in range(200):
            net.register_parameter(f"weight{number}", nn.Parameter(torch.randn(shape)))
        assert {weight.structure for weight in find_weights(net)} == {""}

    def test_rows_for_padding_and_zero_weights_are_no_structure(self) -> None:
        net = nn.ModuleList([nn.Embedding(6, 16, padding_idx=0), nn.Linear(16, 16), nn.Linear(16, 16)])
        nn.init.zeros_(net[1].weight)
        shapeshift.compress(net, "60%")


class TestAdapters:
    @staticmethod
    def model(config: Any) -> Any:
        torch.manual_seed(0)
        body: Any = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        return peft.get_peft_model(body, config)

    @pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal"])
    @pytest.mark.parametrize("rank", [2, 4])
    def test_that_start_with_a_structure_are_refused_and_unchanged(self, init: str, rank: int) -> None:
        model = self.model(peft.LoraConfig(target_modules=["0", "2"], r=rank, init_lora_weights=init))
        with pytest.raises(
            ModelError, match=r"lora_[AB]\.default\.weight .* (orthogonal|dependent) .*exclude=.*init_lora_weights=True"
        ):
            shapeshift.compress(model, "50%")
        assert not shapeshift.is_compressed(model)
        x = torch.randn(4, 32)
        before = model(x)
        assert_close(shapeshift.compress(model, "100%", init="fit")(x), before, "reordered")

    def test_other_methods_with_a_structure_are_refused(self) -> None:
        with pytest.raises(ModelError, match=r"hra_u\.default .* linearly dependent rows"):
            shapeshift.compress(self.model(peft.HRAConfig(target_modules=["0", "2"], r=4)), "50%")

    def test_a_copy_of_frozen_weights_is_refused_and_can_stay(self) -> None:
        config = peft.LoraConfig(target_modules=["0"], modules_to_save=["2"])
        with pytest.raises(ModelError, match=r"2\.modules_to_save\.default\.weight .* copies of frozen weights"):
            shapeshift.compress(self.model(config), "90%")
        model = self.model(config)
        x = torch.randn(4, 32)
        before = model(x)
        shapeshift.compress(model, "90%", exclude=["*modules_to_save*"])
        assert_close(model(x), before, "identical")

    @pytest.mark.parametrize("config", [peft.LoraConfig, peft.LoHaConfig, peft.LoKrConfig])
    def test_that_start_as_noise_give_the_base_models_output(self, config: Any) -> None:
        model = self.model(config(target_modules=["0", "2"], r=4))
        x = torch.randn(4, 32)
        with model.disable_adapter():
            base = model(x)
        assert_close(shapeshift.compress(model, "50%")(x), base, "identical")
