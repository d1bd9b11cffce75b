"""The roots of compressed models: models of every class, models inside others, and several in one."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift import ModelError
from tests.models import gradients, mlp
from tests.tolerances import assert_close


class Wrapper(nn.Module):
    """Like DDP: the model is its submodule."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


class TestWrapped:
    @pytest.mark.parametrize("wrap", [Wrapper, lambda m: Wrapper(Wrapper(m)), torch.compile])
    def test_models_are_found_inside(self, wrap: Any) -> None:
        model, x = shapeshift.compress(mlp(), 0.5), torch.randn(2, 16)
        expected, wrapped = model(x), wrap(model)
        assert shapeshift.is_compressed(wrapped)
        assert shapeshift.materialize(wrapped) is wrapped
        assert not shapeshift.is_compressed(wrapped)
        assert_close(model(x), expected, "identical")
        assert type(model) is nn.Sequential
        assert list(model.state_dict()) == list(mlp().state_dict())

    def test_a_compressed_part_of_a_larger_model(self) -> None:
        model = nn.Sequential(nn.Linear(16, 16), shapeshift.compress(mlp(), 0.5), nn.Linear(4, 4))
        x = torch.randn(2, 16)
        expected = model(x)
        assert_close(copy.deepcopy(model)(x), expected, "identical")
        shapeshift.materialize(model)
        assert type(model[1]) is nn.Sequential
        assert_close(model(x), expected, "identical")


class TestSeveral:
    @staticmethod
    def pair() -> nn.ModuleDict:
        first, second = shapeshift.compress(mlp(), 0.5), shapeshift.compress(mlp(), 0.6, combine="emb")
        return nn.ModuleDict({"first": first, "second": second})

    def test_all_are_materialized(self) -> None:
        models, x = self.pair(), torch.randn(2, 16)
        expected = [model(x) for model in models.values()]
        shapeshift.materialize(models)
        assert not shapeshift.is_compressed(models)
        assert_close([model(x) for model in models.values()], expected, "identical")

    def test_weight_decay_spares_the_coefficients_of_all(self) -> None:
        models = self.pair()
        decayed, spared = (len(group["params"]) for group in shapeshift.parameter_groups(models, 0.1))
        each = [
            [len(group["params"]) for group in shapeshift.parameter_groups(model, 0.1)] for model in models.values()
        ]
        assert [decayed, spared] == [sum(counts) for counts in zip(*each, strict=True)]

    def test_what_is_for_one_names_them(self) -> None:
        for function in (shapeshift.report, lambda model: shapeshift.save(model, "nowhere")):
            with pytest.raises(ModelError, match="ModuleDict holds 2 compressed models: first, second; take them one"):
                function(self.pair())


class TestRoots:
    def test_a_single_layer(self) -> None:
        model, x = nn.Linear(16, 8), torch.randn(2, 16)
        shapeshift.compress(model, 0.5, mapping="shape")
        expected = model(x)
        assert isinstance(model, nn.Linear)
        assert {"bias", "shapeshift.8x16.store.0"} <= set(gradients(model, (x,)))
        assert_close(copy.deepcopy(model)(x), expected, "identical")
        shapeshift.materialize(model)
        assert type(model) is nn.Linear
        assert_close(model(x), expected, "identical")

    def test_a_sequential_runs_lists_and_slices_its_own_layers_only(self) -> None:
        model, x = shapeshift.compress(mlp(), 0.5), torch.randn(2, 16)
        assert len(model) == len(list(model)) == 7
        assert isinstance(model[-1], nn.Linear)
        assert len(model[:3]) == 3
        assert_close(model[3:](model[:3](x)), model(x), "identical")

    def test_a_sequential_can_be_edited(self) -> None:
        model, x = shapeshift.compress(mlp(), 0.5), torch.randn(2, 16)
        before = model(x)
        layer = nn.Linear(before.shape[1], 3)
        model.append(layer)
        model.extend([nn.Tanh()])
        model.insert(7, nn.ReLU())
        assert [type(child) for child in model][-3:] == [nn.ReLU, nn.Linear, nn.Tanh]
        assert_close(model(x), layer(before.relu()).tanh(), "identical")
        del model[-1]
        assert model.pop(-1) is layer
        model[7] = nn.Tanh()
        assert_close(model(x), before.tanh(), "identical")
        assert_close(shapeshift.materialize(model)(x), before.tanh(), "identical")

    def test_slices_are_what_torch_makes_them(self) -> None:
        def named() -> nn.Sequential:
            return nn.Sequential(OrderedDict(a=nn.Linear(8, 8), b=nn.ReLU(), c=nn.Linear(8, 8)))

        model = shapeshift.compress(named(), 0.8)
        assert list(dict(model[1:].named_children())) == list(dict(named()[1:].named_children())) == ["b", "c"]
        assert isinstance(model[1:], nn.Sequential)
        with pytest.raises(IndexError):
            model[3]

    def test_the_class_of_a_compressed_model_makes_plain_ones(self) -> None:
        model = shapeshift.compress(nn.Linear(16, 8), 0.5)
        assert type(type(model)(4, 3)) is nn.Linear

    def test_a_module_dict(self) -> None:
        model = shapeshift.compress(nn.ModuleDict({"a": nn.Linear(8, 8)}), 0.6)
        assert "a" in model
        assert "shapeshift" not in model
        model.clear()
        assert len(model) == 0
        assert shapeshift.is_compressed(model)

    def test_a_module_list(self) -> None:
        model = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        shapeshift.compress(model, 0.6)
        assert len(model) == len(list(model)) == 3
        assert isinstance(model[-1], nn.Linear)
        model.append(nn.ReLU())
        model += [nn.Tanh()]
        assert [type(child) for child in model][-2:] == [nn.ReLU, nn.Tanh]
        assert isinstance(model[3:], nn.ModuleList)
        assert [type(child) for child in model[3:]] == [nn.ReLU, nn.Tanh]
        assert isinstance(shapeshift.materialize(model), nn.ModuleList)

    def test_a_recurrent_layer(self) -> None:
        model, x = nn.LSTM(6, 8), torch.randn(4, 2, 6)
        shapeshift.compress(model, 0.6)
        expected = model(x)
        assert_close(copy.deepcopy(model)(x), expected, "identical")
        shapeshift.materialize(model)
        assert_close(model(x), expected, "identical")

    def test_a_transformer_encoder_keeps_its_fast_path(self) -> None:
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
        x = torch.randn(2, 5, 16)
        shapeshift.compress(model, 0.6)
        with torch.no_grad():
            fast = model(x)
        assert_close(fast, model(x), "reordered")
        assert_close(shapeshift.materialize(model)(x), model(x), "reordered")
