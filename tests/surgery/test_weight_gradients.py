"""Gradients that pass through a generated weight, whoever uses it, and gradients by one."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import shapeshift
from shapeshift import GeneratedWeightError
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed, every_method
from tests.models import gradients, mlp
from tests.tolerances import assert_close


class Product(torch.autograd.Function):
    """A linear layer's product, of a kind that takes its tensors as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ x


class Signs(torch.autograd.Function):
    """Straight-through binarisation."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.sign() * weight.abs().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return grad * (weight.abs() <= 1)


class HeadLoss(torch.autograd.Function):
    """A loss that is fused with the head, as language models use: its gradients are made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = features.detach().requires_grad_(), weight.detach().clone().requires_grad_()
            loss = F.linear(*inputs).logsumexp(1).sum()
        ctx.save_for_backward(*torch.autograd.grad(loss, inputs))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(grad * saved for saved in ctx.saved_tensors)


def plain_signs(weight: Tensor) -> Tensor:
    passed = weight * (weight.abs() <= 1)
    return passed + (weight.sign() * weight.abs().mean() - passed).detach()


def shared_gradients(model: nn.Module) -> dict[str, Tensor | None]:
    found = {name: parameter.grad for name, parameter in require_shared(model).named_parameters()}
    model.zero_grad()
    return found


def weights_of_passes(layer: nn.Module) -> list[Tensor]:
    """Collect a layer's weight from each pass, the documented way."""
    weights: list[Tensor] = []
    layer.register_forward_hook(lambda layer, inputs, output: weights.append(layer.weight))
    return weights


class TestFunctionsThatTakeTensorsAsTheyAre:
    @every_method
    @pytest.mark.parametrize(
        ("function", "plain"),
        [
            (Product.apply, F.linear),
            (lambda x, weight: x @ Signs.apply(weight), lambda x, weight: x @ plain_signs(weight)),
            (HeadLoss.apply, lambda x, weight: F.linear(x, weight).logsumexp(1).sum()),
        ],
        ids=["product", "signs", "head loss"],
    )
    def test_outside_of_a_pass(
        self, function: Callable[..., Tensor], plain: Callable[..., Tensor], options: dict[str, str]
    ) -> None:
        model, x = compressed(mlp(), **options), torch.randn(3, 16)
        plain(model[0](x), model[2].weight).square().sum().backward()
        expected = shared_gradients(model)
        function(model[0](x), model[2].weight).square().sum().backward()
        assert_close(shared_gradients(model), expected, "reordered gradient")

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_under_checkpointing(self, use_reentrant: bool) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
                self.checkpointed = False

            def block(self, x: Tensor) -> Tensor:
                return Product.apply(self.first(x).tanh(), self.second.weight)

            def forward(self, x: Tensor) -> Tensor:
                return checkpoint(self.block, x, use_reentrant=use_reentrant) if self.checkpointed else self.block(x)

        model, x = compressed(Model()), torch.randn(3, 8, requires_grad=True)
        expected = gradients(model, (x,))
        model.checkpointed = True
        assert_close(gradients(model, (x,)), expected, "reordered gradient")

    def test_with_parameters_that_are_gone_is_refused(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        others = {name: parameter.clone() for name, parameter in model.named_parameters()}

        class Part(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Tensor) -> Tensor:
                return Product.apply(x, self.model[0].weight)

        output = functional_call(Part(), {f"model.{name}": value for name, value in others.items()}, (x,))
        with pytest.raises(GeneratedWeightError, match=r"0\.weight \(16, 16\).*call the model as a whole"):
            output.sum().backward()


class TestByAWeightThatWasRead:
    def weight_and_loss(self, dense: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
        torch.manual_seed(0)
        model, x = compressed(mlp(), seed=0), torch.randn(2, 16)
        if dense:
            shapeshift.materialize(model)
        weight = model[0].weight
        return model, weight, F.linear(x, weight).tanh().square().sum()

    def test_autograd_grad(self) -> None:
        _, dense, loss = self.weight_and_loss(dense=True)
        (expected,) = torch.autograd.grad(loss, dense)
        model, weight, loss = self.weight_and_loss()
        assert not weight.is_leaf
        (found,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert_close(found, expected, "identical")
        loss.backward()
        assert any(gradient.any() for gradient in shared_gradients(model).values() if gradient is not None)

    def test_retained_and_as_an_input(self) -> None:
        _, dense, loss = self.weight_and_loss(dense=True)
        loss.backward()
        _, weight, loss = self.weight_and_loss()
        weight.retain_grad()
        loss.backward()
        assert_close(weight.grad, dense.grad, "identical")
        model, weight, loss = self.weight_and_loss()
        loss.backward(inputs=[weight])
        assert_close(weight.grad, dense.grad, "identical")
        assert not any(shared_gradients(model).values())

    def test_transforms_by_the_weight(self) -> None:
        _, dense, _ = self.weight_and_loss(dense=True)
        _, weight, _ = self.weight_and_loss()
        x = torch.randn(2, 16)

        def loss(weight: Tensor) -> Tensor:
            return F.linear(x, weight).tanh().square().sum()

        assert_close(torch.func.grad(loss)(weight), torch.func.grad(loss)(dense), "reordered gradient")
        assert_close(torch.vmap(torch.sum)(weight), torch.vmap(torch.sum)(dense), "reordered")

    def test_optimizers_refuse_it(self) -> None:
        model = compressed(mlp())
        with pytest.raises(ValueError, match="non-leaf"):
            torch.optim.SGD([model[0].weight], lr=0.1)

    def test_double_backward_through_layers_called_alone(self) -> None:
        model, x = compressed(mlp(depth=2)), torch.randn(2, 16)
        parameters = list(model.parameters())

        def curvature(output: Tensor) -> list[Tensor]:
            grads = torch.autograd.grad(output.square().sum(), parameters, create_graph=True)
            total = torch.stack([gradient.square().sum() for gradient in grads]).sum()
            return list(torch.autograd.grad(total, parameters))

        alone = nn.Sequential(*model)(x)
        assert_close(curvature(alone), curvature(model(x)), "reordered gradient")

    def test_two_backward_passes_and_two_losses(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        weight = model[0].weight
        first, second = F.linear(x, weight).sum(), F.linear(x, weight).square().sum()
        (first + second).backward(retain_graph=True)
        expected = shared_gradients(model)
        first.backward()
        second.backward()
        assert_close(shared_gradients(model), expected, "reordered gradient")

    def test_a_step_before_the_backward_pass_is_named(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        weight = model[0].weight
        loss = weight.sum()
        with torch.no_grad():
            for parameter in require_shared(model).parameters():
                parameter.mul_(2)
        with pytest.raises(GeneratedWeightError, match=r"0\.weight .*modified by an inplace operation"):
            loss.backward()
        assert_close(F.linear(x, weight), F.linear(x, model[0].weight), "identical")

    def test_values_are_forgotten_after_the_backward_pass(self) -> None:
        model = compressed(mlp())
        values = model[0].weight + 0
        loss = (values * values).sum()
        origin = values.grad_fn.next_functions[0][0].next_functions[0][0].origin
        kept = weakref.ref(origin.weight)
        loss.backward()
        gc.collect()
        assert kept() is None
        assert loss.grad_fn is not None

    def test_pointers_stay_valid_as_long_as_the_weight(self) -> None:
        model = compressed(mlp())
        weight = model[0].weight
        pointer = weight.data_ptr()
        assert pointer == weight._exposed[0].data_ptr()


class TestByTheWeightOfAPass:
    def test_the_documented_way(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        dense = shapeshift.materialize(copy.deepcopy(model))
        dense(x).square().sum().backward()
        weights = weights_of_passes(model[0])
        (found,) = torch.autograd.grad(model(x).square().sum(), weights[-1])
        assert_close(found, dense[0].weight.grad, "reordered gradient")
        loss = model(x).square().sum()
        weights[-1].retain_grad()
        loss.backward()
        assert_close(weights[-1].grad, dense[0].weight.grad, "reordered gradient")

    @pytest.mark.parametrize(
        "differentiate",
        [
            lambda loss, layer: torch.autograd.grad(loss, layer.weight),
            lambda loss, layer: torch.autograd.grad(loss, [layer.bias, layer.weight], allow_unused=True),
            lambda loss, layer: loss.backward(inputs=[layer.weight]),
            lambda loss, layer: torch.autograd.backward([loss], inputs=layer.weight),
            lambda loss, layer: (loss.backward(), layer.weight.grad),
        ],
    )
    def test_what_was_read_later_is_refused_with_the_way(self, differentiate: Callable[..., Any]) -> None:
        model = compressed(mlp())
        loss = model(torch.randn(2, 16)).sum()
        with pytest.raises(GeneratedWeightError, match=r"0\.weight \(16, 16\).*register_forward_hook"):
            differentiate(loss, model[0])


class TestHooks:
    def test_run_in_every_pass_until_they_are_removed(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        dense = shapeshift.materialize(copy.deepcopy(model))
        seen: list[Tensor] = []
        expected: list[Tensor] = []
        dense[0].weight.register_hook(expected.append)
        handle = model[0].weight.register_hook(seen.append)
        for run in (lambda net: net(x), lambda net: net[0](x), lambda net: net(x).tanh()):
            for net in (dense, model):
                run(net).square().sum().backward()
        assert len(seen) == 3
        assert_close(seen, expected, "reordered gradient")
        loss = model(x).sum()
        handle.remove()
        loss.backward()
        model(x).sum().backward()
        assert len(seen) == 3

    @pytest.mark.parametrize("alone", [False, True])
    def test_change_the_gradient_as_on_a_parameter(self, alone: bool) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        run = (lambda: model[0](x)) if alone else (lambda: model(x))
        run().sum().backward()
        assert any(found is not None and found.any() for found in shared_gradients(model).values())
        for layer in (0, 2, 4, 6):
            model[layer].weight.register_hook(torch.zeros_like)
        run().sum().backward()
        assert not any(found is not None and found.any() for found in shared_gradients(model).values())

    def test_of_the_weight_of_one_pass_run_in_that_pass_only(self) -> None:
        model, x, seen = compressed(mlp()), torch.randn(2, 16), []
        model[0].weight.register_hook(lambda gradient: seen.append("all"))
        weights = weights_of_passes(model[0])
        loss = model(x).sum()
        weights[-1].register_hook(lambda gradient: seen.append("one"))
        loss.backward()
        model(x).sum().backward()
        assert seen == ["all", "one", "all"]

    def test_copies_have_none(self) -> None:
        model, x, seen = compressed(mlp()), torch.randn(2, 16), []
        model[0].weight.register_hook(seen.append)
        copy.deepcopy(model)(x).sum().backward()
        assert not seen

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_compiled(self) -> None:
        model, x, seen = compressed(mlp()), torch.randn(2, 16), []
        model[0].weight.register_hook(lambda gradient: seen.append(gradient.clone()))
        model(x).sum().backward()
        torch.compile(model, backend="aot_eager")(x).sum().backward()
        assert_close(seen[1], seen[0], "reordered gradient")
