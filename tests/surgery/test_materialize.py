"""What a plain model gets back from `materialize` beside the values of its weights."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from tests.methods import compressed
from tests.models import Language, Residual, mlp
from tests.tolerances import assert_close


class Marked(nn.Parameter):
    """A parameter of a class of its own, as vLLM and others use them."""


def autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a bound forward as accelerate does."""

    @functools.wraps(forward)
    def run(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args)

    return run


class TestBoundForwards:
    def test_replaced_on_the_instance(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        model.forward = autocast(model.forward)
        expected = model(x)
        assert_close(shapeshift.materialize(model)(x), expected, "identical")
        compressed(model)
        assert not model(x).equal(expected)
        assert_close(shapeshift.materialize(copy.deepcopy(model))(x), model(x), "identical")

    def test_kept_elsewhere(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        forward, children, expected = model.forward, model.named_children, model(x)
        shapeshift.materialize(model)
        assert_close(forward(x), expected, "identical")
        assert [name for name, _ in children()] == [name for name, _ in model.named_children()]
        compressed(model)
        assert_close(forward(x), model(x), "identical")

    def test_of_a_model_inside_another_and_of_one_that_is_compiled(self) -> None:
        inner, x = compressed(mlp()), torch.randn(2, 16)
        outer = nn.Sequential(inner)
        inner.forward = autocast(inner.forward)
        expected = outer(x)
        assert_close(shapeshift.materialize(outer)(x), expected, "identical")
        model = torch.compile(compressed(mlp()), backend="eager")
        expected = model(x)
        assert_close(shapeshift.materialize(model)(x), expected, "reordered")


class TestForms:
    def test_memory_format(self) -> None:
        model, images = Residual().eval().to(memory_format=torch.channels_last), torch.randn(2, 3, 5, 5)
        strides = {name: parameter.stride() for name, parameter in model.named_parameters()}
        expected = compressed(model)(images)
        shapeshift.materialize(model)
        assert {name: parameter.stride() for name, parameter in model.named_parameters()} == strides
        assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)
        assert_close(model(images), expected, "reordered")

    def test_transposed_and_expanded_weights(self) -> None:
        model, x = mlp(), torch.randn(2, 16)
        model[0].weight = nn.Parameter(torch.randn(16, 16).t())
        model[2].weight = nn.Parameter(torch.randn(32, 32)[::2, ::2])
        expected = compressed(model)(x)
        shapeshift.materialize(model)
        assert model[0].weight.stride() == (1, 16)
        assert model[2].weight.is_contiguous()
        assert_close(model(x), expected, "reordered")

    @pytest.mark.parametrize("duplicate", [lambda model: model, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_classes_and_attributes(self, duplicate: Callable[[nn.Module], nn.Module]) -> None:
        model = mlp()
        model[0].weight = Marked(model[0].weight.data)
        model[0].weight.output_dim = 0
        model[2].weight.no_decay = True
        model = duplicate(compressed(model))
        shapeshift.materialize(model)
        assert type(model[0].weight) is Marked
        assert type(model[2].weight) is nn.Parameter
        assert (model[0].weight.output_dim, model[2].weight.no_decay) == (0, True)
        assert model[0].weight.is_leaf
        assert model[0].weight.requires_grad
        assert not vars(model[4].weight)

    def test_of_a_tied_weight_and_after_a_change_of_dtype(self) -> None:
        model = Language(tied=True)
        model.embedding.weight.marked = True
        shapeshift.materialize(compressed(model).double())
        assert model.head.weight is model.embedding.weight
        assert model.head.weight.marked
        assert model.head.weight.dtype == torch.float64

    def test_hooks_on_gradients_stay_through_both(self) -> None:
        model, x = mlp(), torch.randn(2, 16)
        seen: list[Tensor] = []
        handle = model[0].weight.register_hook(seen.append)
        compressed(model)(x).sum().backward()
        shapeshift.materialize(model)(x).sum().backward()
        assert_close(seen[1], seen[0], "reordered gradient")
        handle.remove()
        model(x).sum().backward()
        assert len(seen) == 2
