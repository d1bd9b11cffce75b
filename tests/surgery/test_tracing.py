"""Graphs of torch.fx: they generate the weights that they read, and own the shared parameters."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torchvision.models.feature_extraction import create_feature_extractor

import shapeshift
from shapeshift import ModelError
from tests.methods import compressed
from tests.models import Convolutions, Residual, gradients, mlp
from tests.tolerances import assert_close


class Opaque(nn.Module):
    """Layers that torch.fx cannot trace into, and reads of a weight by code of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 16, max_norm=1.0)
        self.position = nn.Parameter(torch.randn(6, 16))
        self.rnn = nn.LSTM(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        if self.position.shape[0] == 6:  # a shape is known while a model is traced
            x = x + self.position[: self.position.size()[0]]
        x, _ = self.rnn(x)
        x = x + self.attention(x, x, x)[0]
        return torch.nn.functional.linear(self.block(x), self.head.weight)


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "sequential": (mlp, torch.randn(2, 16)),
    "convolutions": (Convolutions, torch.randn(2, 4, 6)),
    "residual": (Residual, torch.randn(2, 3, 8, 8)),
    "wrapped": (lambda: nn.Sequential(nn.Linear(16, 16), mlp(), nn.Tanh()), torch.randn(2, 16)),
    "resnet": (lambda: timm.create_model("resnet10t", num_classes=4), torch.randn(2, 3, 32, 32)),
}


@pytest.mark.parametrize("mapping", ["single", "shape"])
@pytest.mark.parametrize("name", CASES)
def test_a_traced_graph_computes_and_trains_as_the_model_does(name: str, mapping: str) -> None:
    build, x = CASES[name]
    model = build()
    inner = model[1] if name == "wrapped" else model
    shapeshift.compress(inner, "60%", mapping=mapping, seed=0)
    graph = torch.fx.symbolic_trace(model)
    assert_close(graph(x), model(x), "identical")
    assert {n for n, _ in graph.named_parameters()} == {n for n, _ in model.named_parameters()}
    assert_close(gradients(graph, (x,)), gradients(model, (x,)), "reordered gradient")
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.sub_(0.1 * parameter.sign())
    assert_close(graph(x), model(x), "identical")  # they own the same parameters


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor:UserWarning")
def test_layers_that_cannot_be_traced_into_are_called() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(32, (2, 6))
    model = compressed(Opaque())
    graph = torch.fx.symbolic_trace(model)
    assert_close(graph(tokens), model(tokens), "reordered")
    assert_close(gradients(graph, (tokens,)), gradients(model, (tokens,)), "reordered gradient")


@pytest.mark.parametrize("replicate", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])
def test_a_traced_graph_is_copied_with_parameters_of_its_own(replicate: Any) -> None:
    model, x = compressed(mlp()), torch.randn(2, 16)
    graph = torch.fx.symbolic_trace(model)
    replica = replicate(graph)
    expected = graph(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_close(replica(x), expected, "identical")
    assert graph(x).abs().max() == 0
    replica.load_state_dict(model.state_dict())
    assert replica(x).abs().max() == 0


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "test_vit"])
def test_features_are_extracted_from_a_compressed_model(name: str) -> None:
    # The convolutions of tf_efficientnet_lite0 are called as a whole: timm names them.
    options = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}
    model = timm.create_model(name, num_classes=4)
    x = torch.randn(2, *(model.default_cfg["input_size"] if name == "test_vit" else (3, 32, 32)))
    shapeshift.compress(model, "30%", seed=0).eval()
    nodes = {"blocks.0" if hasattr(model, "blocks") else "layer1.0": "first", model.default_cfg["classifier"]: "last"}
    tracing = {key: list(value) for key, value in options.items()}
    extractor = create_feature_extractor(model, nodes, tracer_kwargs=tracing).eval()
    plain = shapeshift.materialize(copy.deepcopy(model))
    expected = create_feature_extractor(plain, nodes, tracer_kwargs=tracing).eval()(x)
    assert_close(extractor(x), expected, "identical")
    found, wanted = (gradients(each, (x,)) for each in (extractor, model))
    assert found.keys() == wanted.keys()
    assert all(gradient.abs().max() > 0 for key, gradient in found.items() if ".store." in key)


def test_the_part_of_a_compressed_model_is_not_traced() -> None:
    model = compressed(nn.Sequential(nn.Linear(16, 16), mlp(depth=2)))
    before = set(vars(model[1]))
    with pytest.raises(ModelError, match=r"layer of 1\.0\.weight \(16, 16\) apart from.*trace the whole model"):
        torch.fx.symbolic_trace(model[1])
    assert set(vars(model[1])) == before


@pytest.mark.parametrize("part", [1, None])
def test_operations_are_traced_with_tensors(part: int | None) -> None:
    model, x = compressed(nn.Sequential(nn.Linear(16, 16), mlp(depth=2))), torch.randn(2, 16)
    traced = model if part is None else model[part]
    assert_close(make_fx(traced)(x)(x), traced(x), "reordered")


def test_a_plain_model_that_was_traced_is_compressed() -> None:
    graph = shapeshift.compress(torch.fx.symbolic_trace(mlp(depth=2)), "60%")
    graph(torch.randn(2, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())
