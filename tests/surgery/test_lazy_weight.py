"""Reading and writing a generated weight."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift import GeneratedWeightError
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import mlp
from tests.tolerances import assert_close


class TestReading:
    def test_shape_dtype_and_device_do_not_generate(self, generations: list[int]) -> None:
        model = compressed(mlp())
        generations.clear()
        weight = model[0].weight
        assert weight.shape == weight.size() == (16, 16)
        assert (weight.dtype, weight.device.type) == (torch.float32, "cpu")
        assert weight.dim() == weight.ndim == 2
        assert weight.numel() == weight.nelement() == 256
        assert weight.requires_grad
        assert weight.is_floating_point()
        assert not weight.is_cuda
        assert len(weight) == 16
        assert isinstance(weight, Tensor)
        assert generations == []

    def test_a_forward_generates_every_weight_once(self, generations: list[int]) -> None:
        model = compressed(mlp(), mapping="single")
        generations.clear()
        model(torch.randn(2, 16))
        assert sorted(generations) == [0, 1, 2, 3]

    def test_a_submodule_alone_generates_its_own_weight_only(self, generations: list[int]) -> None:
        model, x = compressed(mlp(), mapping="single"), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        generations.clear()
        assert_close(model[2](x), plain[2](x), "identical")
        assert generations == [1]

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_a_submodule_in_every_gradient_mode(self, mode: Any) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        with mode():
            assert_close(model[2](x), plain[2](x), "identical")
            assert_close(model(x), plain(x), "identical")
            assert model[2](x).requires_grad == torch.is_grad_enabled()
        assert model[2](x).requires_grad

    def test_values_outside_of_a_forward_have_a_graph(self) -> None:
        model = compressed(mlp(), mapping="single")
        model[0].weight.square().sum().backward()
        assert require_shared(model)["all"].store[0].grad.any()
        assert model[0].weight.detach().clone().requires_grad is False
        assert_close(model[0].weight + 0, F.linear(torch.eye(16), model[0].weight).T.contiguous(), "identical")

    def test_wherever_a_tensor_goes(self) -> None:
        model = compressed(mlp())
        weight, value = model[0].weight, model[0].weight.detach().clone()
        assert_close(torch.tensor(weight.tolist()), value, "identical")
        assert_close(torch.from_numpy(weight.detach().numpy()), value, "identical")
        assert_close(torch.stack([weight, weight])[1], value, "identical")
        assert_close(weight[3, 2:5], value[3, 2:5], "identical")
        assert_close(weight.to(torch.float64), value.double(), "identical")
        assert_close(weight.half(), value.half(), "identical")
        assert_close(copy.deepcopy(weight.detach()) + 0, value, "identical")
        assert "tensor(" in repr(weight)
        assert f"{weight.sum().item():.3f}" == f"{value.sum().item():.3f}"


class TestWriting:
    @pytest.mark.parametrize(
        "write",
        [
            lambda layer: nn.init.zeros_(layer.weight),
            lambda layer: nn.init.kaiming_uniform_(layer.weight),
            lambda layer: nn.init.trunc_normal_(layer.weight),
            lambda layer: layer.weight.data.zero_(),
            lambda layer: layer.weight.data.copy_(torch.zeros(16, 16)),
            lambda layer: layer.weight.detach().mul_(2),
            lambda layer: layer.weight.mul_(2),
            lambda layer: layer.weight.__setitem__((0, 0), 1.0),
            lambda layer: setattr(layer.weight, "data", torch.zeros(16, 16)),
            lambda layer: setattr(layer.weight, "grad", None),
            lambda layer: layer.weight.register_post_accumulate_grad_hook(lambda weight: None),
            lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(16, 16))),
            lambda layer: setattr(layer, "weight", torch.zeros(16, 16)),
            lambda layer: layer.register_parameter("weight", nn.Parameter(torch.zeros(16, 16))),
            lambda layer: layer.reset_parameters(),
            lambda layer: torch.add(torch.zeros(16, 16), 1, out=layer.weight),
            lambda layer: torch._foreach_mul_([layer.weight], 2.0),
            lambda layer: layer.weight.set_(torch.zeros(16, 16)),
        ],
    )
    def test_a_generated_weight_is_refused_with_the_reason(self, write: Callable[[Any], Any]) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        expected = model(x)
        with torch.no_grad(), pytest.raises(GeneratedWeightError, match=r"0\.weight.*generated from shared"):
            write(model[0])
        assert_close(model(x), expected, "identical")

    def test_out_of_place_operations_are_allowed(self) -> None:
        model = compressed(mlp())
        weight = model[0].weight
        assert (weight * 2).shape == weight.t().shape == (~(weight > 0)).shape == (16, 16)


def test_the_error_of_a_write_is_of_our_kind() -> None:
    assert issubclass(GeneratedWeightError, shapeshift.ShapeshiftError)
    assert issubclass(GeneratedWeightError, RuntimeError)


def test_a_generated_weight_can_be_copied_from() -> None:
    model = shapeshift.compress(mlp(), 0.5)
    with pytest.warns(UserWarning, match="copy construct"):
        copied = torch.tensor(model[0].weight)
    assert type(copied) is Tensor
    assert_close(copied, model[0].weight.clone().detach(), "identical")
