"""Which parameters of a model are generated: their kinds, their ties, and the names that choose them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift import ConfigError, ModelError
from shapeshift.compression import plan_compression
from shapeshift.surgery.roots import require_shared
from tests.models import Language, MixedDtypes, PartlyFrozen, Repeated, Residual, mlp
from tests.structure import assert_unchanged_by
from tests.tolerances import assert_close


def names(model: nn.Module, budget: shapeshift.budget.Budget = 0.6, **options: Any) -> set[str]:
    """Return every name under which a weight would be generated."""
    plan = plan_compression(model, budget, **options)
    return {name for group in plan.groups for weight in group.weights for name in weight.names}


class TestFrozen:
    def test_parameters_are_neither_generated_nor_counted(self) -> None:
        model = PartlyFrozen()
        assert shapeshift.count_parameters(model) == 8 * 12 + 12 + 12 * 8 + 8
        frozen = model.frozen.weight
        shapeshift.compress(model, 0.5)
        assert model.frozen.weight is frozen
        assert "frozen.weight" in model.state_dict()
        assert shapeshift.count_parameters(model) <= 106
        assert {"before.weight", "after.weight"}.isdisjoint(model.state_dict())

    def test_model_has_no_candidate(self) -> None:
        assert_unchanged_by(mlp().requires_grad_(False), ModelError, "no weight that could be generated", 0.5)


class TestUninitialised:
    def test_lazy_modules_are_refused_until_they_are_run(self) -> None:
        model = nn.Sequential(nn.LazyLinear(8), nn.LazyConv1d(4, 1))
        with pytest.raises(ModelError, match=r"0\.weight is not initialised yet .*run one forward pass"):
            shapeshift.compress(model, 0.5)
        x = torch.randn(2, 3, 8)
        model(x)
        shapeshift.compress(model, 0.9)
        assert type(model[0]).__mro__[1] is nn.Linear
        assert model(x).shape == (2, 4, 8)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_nan_and_infinity_are_refused_by_name(self, value: float) -> None:
        model = mlp()
        with torch.no_grad():
            model[2].weight[3, 3] = value
        assert_unchanged_by(model, ModelError, r"2\.weight \(16, 16\) holds NaN or infinite", 0.5)
        shapeshift.compress(model, 0.8, exclude=["2"])
        assert isinstance(model[2].weight, nn.Parameter)


class TestKindsOfTensors:
    def test_no_candidate(self) -> None:
        assert_unchanged_by(nn.LayerNorm(8), ModelError, "LayerNorm has no weight that could be generated", 0.5)
        assert_unchanged_by(nn.Sequential(), ModelError, "no weight that could be generated", 0.5)
        assert_unchanged_by(nn.Sequential(nn.ReLU()), ModelError, "no weight that could be generated", 1000)
        gain = nn.Linear(8, 8)
        nn.init.ones_(gain.weight)
        assert_unchanged_by(gain, ModelError, "of its 2 parameters none is .* other than a gain", 0.5)

    def test_complex_and_integer_parameters_stay(self) -> None:
        model = nn.Module()
        model.weight = nn.Parameter(torch.randn(8, 8))
        model.complex = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))
        model.integer = nn.Parameter(torch.ones(8, 8, dtype=torch.int64), requires_grad=False)
        assert names(model, 0.9) == {"weight"}
        complex_, integer = model.complex, model.integer
        shapeshift.compress(model, 0.9)
        assert model.complex is complex_
        assert model.integer is integer

    def test_mixed_dtypes_never_share_a_store(self) -> None:
        model = shapeshift.compress(MixedDtypes(), 0.6, mapping="single")
        for group in require_shared(model).generators():
            assert {weight.dtype for weight in group.weights} == {p.dtype for p in group.parameters()}
        assert {p.dtype for p in require_shared(model).parameters()} == {
            torch.float32,
            torch.float64,
            torch.bfloat16,
        }

    def test_gains_and_tokens_stay(self) -> None:
        model = mlp()
        model.gain = nn.Parameter(torch.full((4, 4), 0.1))
        model.token = nn.Parameter(torch.randn(1, 1, 32))
        assert names(model) == {f"{index}.weight" for index in (0, 2, 4, 6)}

    def test_empty_and_non_contiguous_parameters(self) -> None:
        model = nn.Module()
        model.empty = nn.Parameter(torch.empty(0, 4))
        model.transposed = nn.Parameter(torch.randn(6, 9).t())
        shapeshift.compress(model, 0.9)
        assert model.transposed.shape == (9, 6)
        assert isinstance(model.empty, nn.Parameter)
        assert shapeshift.materialize(model).transposed.shape == (9, 6)


class TestTwiceInTheTree:
    def test_a_module_is_attached_and_generated_once(self) -> None:
        model, x = Repeated(), torch.randn(2, 8)
        shapeshift.compress(model, 0.9)
        assert model.first is model.again is model.last[1]
        assert sum(len(group.weights) for group in require_shared(model).generators()) == 2
        expected = model(x)
        shapeshift.materialize(model)
        assert model.first is model.again is model.last[1]
        assert model.tied.weight is model.first.weight
        assert_close(model(x), expected, "identical")


class TestTied:
    @pytest.mark.parametrize("pattern", ["embedding", "head", "head.weight", "*.weight"])
    def test_one_name_is_enough_to_exclude_or_include(self, pattern: str) -> None:
        excluded = names(Language(), exclude=[pattern], budget=0.99)
        assert {"embedding.weight", "head.weight"}.isdisjoint(excluded)
        included = names(Language(), include=[pattern], budget=0.99)
        assert {"embedding.weight", "head.weight"} <= included

    def test_ties_count_once(self) -> None:
        assert shapeshift.count_parameters(Language(tied=False)) - shapeshift.count_parameters(Language()) == 31 * 16


class TestIncludeAndExclude:
    def test_by_parameter_module_and_pattern(self) -> None:
        every = {f"{index}.weight" for index in (0, 2, 4, 6)}
        assert names(mlp()) == every
        assert names(mlp(), 0.99, exclude=["0.weight"]) == every - {"0.weight"}
        assert names(mlp(), 0.99, exclude=["0", "4"]) == every - {"0.weight", "4.weight"}
        assert names(mlp(), 0.99, include=["[02]"]) == {"0.weight", "2.weight"}
        assert names(mlp(), 0.99, include=["*.weight"], exclude=["6"]) == every - {"6.weight"}
        assert names(Residual(), 0.99, include=["branches"]) == {f"branches.{i}.2.weight" for i in range(3)}
        assert names(Residual(), 0.99, include=["branches.*.2"]) == {f"branches.{i}.2.weight" for i in range(3)}

    @pytest.mark.parametrize("field", ["include", "exclude"])
    def test_unknown_names_are_refused_with_close_ones(self, field: str) -> None:
        assert_unchanged_by(Residual(), ConfigError, f"{field}: 'steem' matches no .*'stem'", 0.5, **{field: ["steem"]})
        assert_unchanged_by(Residual(), ConfigError, f"{field} must be a sequence", 0.5, **{field: "stem"})
        assert_unchanged_by(Residual(), ConfigError, f"{field} must be a sequence", 0.5, **{field: [3]})

    def test_everything_excluded(self) -> None:
        assert_unchanged_by(mlp(), ModelError, "left by include and exclude", 0.5, exclude=["*"])

    def test_excluded_weights_keep_their_values(self) -> None:
        model = mlp()
        weight, value = model[0].weight, model[0].weight.detach().clone()
        shapeshift.compress(model, 0.9, exclude=["0"])
        assert model[0].weight is weight
        assert weight.equal(value)
        assert type(model[0]) is nn.Linear


def test_names_may_come_from_a_generator() -> None:
    assert names(mlp(), 0.9, exclude=(name for name in ["0", "2"])) == names(mlp(), 0.9, exclude=["0", "2"])


def test_a_name_is_no_pattern_where_something_has_it() -> None:
    model = nn.ModuleDict({"l[1]": nn.Linear(8, 8), "l1": nn.Linear(8, 8)})
    assert names(model, 0.8, exclude=["l[1]"]) == {"l1.weight"}
