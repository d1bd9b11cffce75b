"""Compressing a model, and materializing it: what is refused, and what stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift import BudgetError, ConfigError, ModelError
from tests.models import mlp
from tests.structure import assert_looks_like, assert_unchanged_by
from tests.tolerances import assert_close


class TestFailuresChangeNothing:
    @pytest.mark.parametrize(
        ("budget", "options", "error", "match"),
        [
            (1, {}, BudgetError, "the least for this model and config is"),
            ("100x", {}, BudgetError, "the most for this model and config is"),
            ("2x", {"max_templates": 1}, BudgetError, "max_templates"),
            ("lots", {}, BudgetError, "cannot read"),
            (0.5, {"mapping": "colour"}, ConfigError, "unknown mapping 'colour'; choose one of: "),
            (0.5, {"combine": "x"}, ConfigError, "unknown generator"),
            (0.5, {"upsample": "x"}, ConfigError, "unknown upsampler"),
            (0.5, {"max_templates": 0}, ConfigError, "max_templates must be None or an integer of at least 1"),
            (0.5, {"seed": -1}, ConfigError, "seed must be"),
            (0.5, {"seed": True}, ConfigError, "seed must be"),
            (0.5, {"seed": 2**64}, ConfigError, "seed must be"),
            (0.5, {"exclude": None}, ConfigError, "exclude must be a sequence of names or patterns, not None"),
            (0.5, {"exclude": "0"}, ConfigError, "exclude must be a sequence of names or patterns, not '0'"),
            (0.5, {"combine": ["wavg"]}, ConfigError, r"unknown generator \['wavg'\]"),
            (0.5, {"config": {"combine": "avg"}}, ConfigError, "config must be a shapeshift.Config, not {'combine'"),
            (0.5, {"mapping": lambda name: None}, ConfigError, "mapping gave no group for 0.weight"),
            (10**400, {}, BudgetError, "the most for this model and config is"),
            (0.5, {"templates": 3}, ConfigError, "unknown option templates; the options are"),
        ],
    )
    def test_of_arguments(self, budget: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
        assert_unchanged_by(mlp(), error, match, budget, **options)

    def test_of_a_name_for_a_model(self) -> None:
        with pytest.raises(ModelError, match=r"a torch.nn.Module, not 'resnet18'; build it first"):
            shapeshift.compress("resnet18", 0.5)

    def test_of_sparse_gradients(self) -> None:
        model = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Linear(8, 8))
        assert_unchanged_by(model, ModelError, r"0.weight \(20, 8\) has sparse gradients.*or exclude it", 0.9)
        shapeshift.compress(model, 0.9, exclude=["0"])

    @pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
    def test_of_a_module_in_the_middle(self) -> None:
        model = mlp()
        model.add_module("scripted", torch.jit.script(nn.Linear(2, 2)))
        with pytest.raises(ModelError, match=r"scripted \(RecursiveScriptModule\) is a scripted module"):
            shapeshift.compress(model, 0.5)
        assert type(model[0]) is nn.Linear
        assert not shapeshift.is_compressed(model)

    def test_of_a_class_that_nobody_may_derive_from(self) -> None:
        class Final(nn.Linear):
            def __init_subclass__(cls) -> None:
                raise TypeError("Final is final")

        model = nn.Sequential(nn.Linear(8, 8), Final(8, 8), nn.Linear(8, 8))
        assert_unchanged_by(model, ModelError, r"1 \(Final\) cannot read .*Final is final.*exclude", 0.7)
        shapeshift.compress(model, 0.8, exclude=["1"])
        assert type(model[1]) is Final

    def test_of_a_model_with_an_attribute_of_our_name(self) -> None:
        model = mlp()
        model.shapeshift = 3
        assert_unchanged_by(model, ModelError, "'shapeshift' of its own; rename it", 0.5)
        model = mlp()
        model.add_module("shapeshift", nn.Linear(2, 2))
        assert_unchanged_by(model, ModelError, "'shapeshift' of its own; rename it", 0.5)

    def test_compressing_twice(self) -> None:
        model, x = shapeshift.compress(mlp(), 0.5), torch.randn(2, 16)
        expected, keys = model(x), list(model.state_dict())
        with pytest.raises(ModelError, match=r"is compressed already; call shapeshift\.materialize"):
            shapeshift.compress(model, 0.25)
        with pytest.raises(ModelError, match="is compressed already"):
            shapeshift.compress(nn.Sequential(model), 0.25)
        assert list(model.state_dict()) == keys
        assert_close(model(x), expected, "identical")

    def test_materializing_what_is_not_compressed(self) -> None:
        model = mlp()
        with pytest.raises(ModelError, match=r"Sequential is not compressed; call shapeshift\.compress"):
            shapeshift.materialize(model)
        assert_looks_like(model, copy.deepcopy(model))


def test_a_compiled_model_is_compressed_inside(tmp_path: Path) -> None:
    model, x = mlp(), torch.randn(2, 16)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    assert shapeshift.compress(compiled, 0.5) is compiled
    assert shapeshift.is_compressed(model)
    expected = model(x)
    assert_close(compiled(x), expected, "identical")
    shapeshift.save(compiled, tmp_path)
    assert_close(shapeshift.load(tmp_path, mlp())(x), expected, "identical")
    shapeshift.materialize(compiled)
    assert not shapeshift.is_compressed(compiled)
    assert list(model.state_dict()) == list(mlp().state_dict())
    assert_close(compiled(x), expected, "identical")


def test_what_is_made_in_inference_mode_can_be_trained(tmp_path: Path) -> None:
    x, model, loaded = torch.randn(2, 16), mlp(), mlp()
    with torch.inference_mode():
        shapeshift.compress(model, 0.5)
        shapeshift.save(model, tmp_path)
        shapeshift.load(tmp_path, loaded)
        expected = model(x)
        assert_close(shapeshift.load(tmp_path, mlp())(x), expected, "identical")
    plain = copy.deepcopy(model)
    with torch.inference_mode():
        shapeshift.materialize(plain)
    for trained in (model, loaded, plain):
        trained(x).sum().backward()
        assert all(parameter.grad is not None for parameter in trained.parameters())


def test_a_part_of_a_compressed_model_is_refused_with_what_it_is(tmp_path: Path) -> None:
    model = shapeshift.compress(nn.Sequential(mlp(), nn.Linear(10, 10)), 0.5)
    assert shapeshift.is_compressed(model[0])
    for use in (shapeshift.materialize, shapeshift.report, lambda part: shapeshift.save(part, tmp_path)):
        with pytest.raises(ModelError, match="Sequential is a part of a compressed model"):
            use(model[0])
    with pytest.raises(ModelError, match=r"call shapeshift\.materialize on the whole model first"):
        shapeshift.compress(model[0], 0.5)
