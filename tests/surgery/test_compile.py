"""Compilation and export of compressed models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import shapeshift
from shapeshift import ModelError
from tests.methods import compressed
from tests.models import MODELS, Residual, gradients, mlp, tensors
from tests.stepping import Once, Two
from tests.tolerances import assert_close


class TestCompile:
    @pytest.mark.parametrize("recompute", [False, True])
    def test_inductor_fullgraph(self, recompute: bool) -> None:
        self.check(mlp(depth=2), (torch.randn(2, 16),), "inductor", recompute)

    @pytest.mark.parametrize("name", ["residual", "convolutions", "language", "experts", "containers", "repeated"])
    def test_aot_eager_fullgraph(self, name: str) -> None:
        self.check(MODELS[name].build(), MODELS[name].inputs(), "aot_eager")

    def check(self, model: nn.Module, inputs: tuple[Any, ...], backend: str, recompute: bool = False) -> None:
        torch.compiler.reset()
        compressed(model, mapping="single", recompute=recompute)
        expected_output, expected = model(*inputs), gradients(model, inputs)
        fast = torch.compile(model, fullgraph=True, backend=backend)
        assert_close(tensors(fast(*inputs)), tensors(expected_output), "compiled")
        found = {name.removeprefix("_orig_mod."): value for name, value in gradients(fast, inputs).items()}
        assert_close(found, expected, "compiled")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
        assert_close(tensors(fast(*inputs)), tensors(model(*inputs)), "compiled")

    # Compiling a module whose input is no leaf makes torch look at the input's gradient.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_of_a_submodule(self) -> None:
        torch.compiler.reset()
        model, x = compressed(Residual()), torch.randn(2, 3, 5, 5)
        expected = gradients(model, (x,))
        model.branches[0].compile(fullgraph=True, backend="aot_eager")
        assert_close(gradients(model, (x,)), expected, "compiled")


@pytest.mark.parametrize("name", ["mlp", "convolutions", "language", "experts"])
def test_export(name: str) -> None:
    model, inputs = compressed(MODELS[name].build()).eval(), MODELS[name].inputs()
    program = torch.export.export(model, inputs)
    assert_close(tensors(program.module()(*inputs)), tensors(model(*inputs)), "compiled")


class Broken(Two):
    """Leaves the compiler's graph between its layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # which the compiler looks at
def test_a_graph_that_breaks_in_the_middle_of_a_pass() -> None:
    model, x = shapeshift.compress(Broken(), "60%"), (torch.randn(4, 8),)
    expected = gradients(model, x)
    compiled = torch.compile(model, backend="eager")
    assert_close(compiled(*x), model(*x), "reordered")
    found = gradients(compiled, x)
    assert_close({name.removeprefix("_orig_mod."): grad for name, grad in found.items()}, expected, "reordered")
    # The compiler gave up on the forward pass of this class, and not on those of others.
    other, counter = shapeshift.compress(Once(), "60%"), CompileCounter()
    assert_close(torch.compile(other, backend=counter)(*x), other(*x), "reordered")
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_a_compressed_model_is_not_scripted() -> None:
    model = shapeshift.compress(mlp(), 0.5)
    for part in (model, model[0], nn.Sequential(model)):
        with pytest.raises(ModelError, match=r"torch\.jit\.script compiles .* after shapeshift\.materialize"):
            torch.jit.script(part)
    x = torch.randn(2, 16)
    expected = model(x)
    assert_close(torch.jit.script(shapeshift.materialize(model))(x), expected, "reordered")
