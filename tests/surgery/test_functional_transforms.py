"""The functional transforms of torch.func on compressed models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

import shapeshift
from tests.methods import compressed, every_method
from tests.models import gradients, loss_of, mlp
from tests.tolerances import assert_close


class TestFunctionalTransforms:
    def test_functional_call_with_the_shared_parameters(self) -> None:
        model, other, x = compressed(mlp()), compressed(mlp()), torch.randn(2, 16)
        expected, before = other(x), model(x)
        state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
        assert_close(functional_call(model, state, (x,)), expected, "identical")
        assert_close(model(x), before, "identical")

    def test_grad_and_vmap(self) -> None:
        model, x = compressed(mlp()), torch.randn(3, 16)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

        def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            return loss_of(functional_call(model, parameters, (sample[None],)))

        per_sample = vmap(grad(loss), (None, 0))(parameters, x)
        for index in range(3):
            expected = gradients(model, (x[index : index + 1],))
            assert_close({name: found[index] for name, found in per_sample.items()}, expected, "reordered gradient")

    def test_grad_of_a_submodule(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        found = grad(lambda x: model[2](x).square().sum())(x)
        assert_close(found, grad(lambda x: plain[2](x).square().sum())(x), "reordered gradient")

    def test_vmap_over_an_ensemble(self) -> None:
        models, x = [compressed(mlp(), seed=seed) for seed in range(3)], torch.randn(2, 16)
        parameters, buffers = torch.func.stack_module_state(models)
        outputs = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
        assert_close(outputs, torch.stack([model(x) for model in models]), "reordered")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own use of it
class TestForwardMode:
    @every_method
    def test_dual_parameters(self, options: dict[str, str]) -> None:
        model, x = compressed(mlp(), **options), torch.randn(2, 16)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        tangents = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
        _, expected = jvp(lambda found: functional_call(model, found, (x,)), (parameters,), (tangents,))
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(parameters[name], tangents[name]) for name in parameters}
            found = forward_ad.unpack_dual(functional_call(model, duals, (x,))).tangent
        assert_close(found, expected, "reordered gradient")

    def test_dual_inputs(self) -> None:
        model, x, direction = compressed(mlp()), torch.randn(2, 16), torch.randn(2, 16)
        _, expected = jvp(shapeshift.materialize(copy.deepcopy(model)), (x,), (direction,))
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction))).tangent
            alone = forward_ad.unpack_dual(nn.Sequential(*model)(forward_ad.make_dual(x, direction))).tangent
        assert_close([found, alone], [expected, expected], "reordered gradient")
