"""Models and arguments at the edge of what can be compressed."""

from __future__ import annotations

import copy
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift import BudgetError, ConfigError, GeneratedWeightError, ModelError
from shapeshift.compression import plan_compression
from shapeshift.generators import GENERATORS
from shapeshift.surgery.roots import require_shared
from tests.models import Language, MixedDtypes, PartlyFrozen, Repeated, Residual, gradients, mlp, tensors
from tests.test_invariants import assert_looks_like
from tests.tolerances import assert_close


def names(model: nn.Module, budget: shapeshift.budget.Budget = 0.6, **options: Any) -> set[str]:
    """Return every name under which a weight would be generated."""
    plan = plan_compression(model, budget, **options)
    return {name for group in plan.groups for weight in group.weights for name in weight.names}


def assert_unchanged_by(model: nn.Module, error: type[Exception], match: str, *args: Any, **options: Any) -> None:
    """Assert that compressing a model fails, and leaves it as it was."""
    before = copy.deepcopy(model)
    with pytest.raises(error, match=match):
        shapeshift.compress(model, *args, **options)
    assert_looks_like(model, before)
    for (name, tensor), expected in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected) or tensor.isnan().any(), name
    assert not shapeshift.is_compressed(model)


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


class TestZeroInitialisation:
    @pytest.mark.parametrize("budget", [0.4, 0.8, 2.0])
    @pytest.mark.parametrize("mapping", ["single", "shape"])
    def test_starts_at_zero_and_still_learns(self, budget: float, mapping: str) -> None:
        model, images = Residual(), torch.randn(4, 3, 5, 5)
        shapeshift.compress(model, budget, mapping=mapping, seed=0)
        weight = model.branches[-1][2].weight
        assert not isinstance(weight, nn.Parameter)
        assert not weight.detach().any()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            gradients(model, (images,))
            optimizer.step()
        assert weight.detach().abs().min() > 0

    def test_where_every_weight_of_a_group_starts_at_zero(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
        nn.init.zeros_(model[2].weight)
        shapeshift.compress(model, 0.7, mapping="shape")
        assert not isinstance(model[2].weight, nn.Parameter)
        assert not model[2].weight.detach().any()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        gradients(model, (torch.randn(4, 8),))
        optimizer.step()
        assert model[2].weight.detach().any()


class TestStartingDeviations:
    @staticmethod
    def far_apart() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(40, 60, bias=False), nn.Linear(60, 50, bias=False))
        for layer, std in zip(model, (0.01, 0.2), strict=True):
            nn.init.normal_(layer.weight, std=std)
        return model

    @pytest.mark.parametrize("combine", ["wavg", "superweights"])
    def test_weights_with_numbers_of_their_own_need_no_gain(self, combine: str) -> None:
        # Of the first layer's numbers, SuperWeights read some with the second layer: only without is it alone.
        exclude = ["1"] if combine == "superweights" else []
        model = shapeshift.compress(self.far_apart(), 1.0, combine=combine, exclude=exclude, max_templates=1, seed=0)
        gains = require_shared(model)["all"].gains
        assert gains.numel() == 2 - len(exclude)
        assert_close(gains, torch.ones_like(gains), "drawn deviation")

    def test_numbers_that_several_weights_read_start_between_them(self) -> None:
        model = shapeshift.compress(self.far_apart(), 0.6, max_templates=1, seed=0)
        group = require_shared(model)["all"]
        first, second = (slice(draw.offset, draw.offset + draw.span) for draw in group.layout.combinations)
        assert (first.start, second.stop) == (0, 3240)
        store = group.store[0].detach()
        for part, expected in (
            (store[: second.start], 0.01),
            (store[second.start : first.stop], math.sqrt((0.01**2 + 0.2**2) / 2)),
            (store[first.stop :], 0.2),
        ):
            assert_close(part.std().item(), expected, "drawn deviation")

    def test_numbers_of_weights_that_start_at_zero_alone_start_as_the_others_do(self) -> None:
        model = self.far_apart()
        nn.init.zeros_(model[0].weight)
        shapeshift.compress(model, 0.6, max_templates=1, seed=0)
        assert_close(require_shared(model)["all"].store[0].std().item(), 0.2, "drawn deviation")

    @pytest.mark.parametrize("budget", [1.0, 4.0, 8.0])
    def test_adam_moves_weights_little_further_than_plain_ones(self, budget: float) -> None:
        model = shapeshift.compress(mlp(32, 6), budget, seed=0)
        group = require_shared(model)["all"]
        for index in range(len(group.weights)):
            # How far the first number moves when each number of the store moves by one.
            (slope,) = torch.autograd.grad(group.generate([index])[0].flatten()[0], list(group.store))
            # Where few numbers are drawn, or templates overlap, gains make up for a deviation that differs a little.
            assert 1 <= slope.abs().sum() <= 1.2 * math.sqrt(3)


class TestMetaDevice:
    @pytest.mark.parametrize(
        ("layer", "std"),
        [
            (lambda: nn.Linear(12, 8), 1 / math.sqrt(3 * 12)),
            (lambda: nn.Conv2d(6, 8, 3), 1 / math.sqrt(3 * 6 * 9)),
            (lambda: nn.Conv2d(8, 8, 3, groups=4), 1 / math.sqrt(3 * 2 * 9)),
            (lambda: nn.Embedding(9, 4), 1.0),
        ],
    )
    def test_starting_deviation_follows_the_fan_in_rule(self, layer: Any, std: float) -> None:
        with torch.device("meta"):
            model = nn.Sequential(layer())
        (group,) = plan_compression(model, 1.0).groups
        assert group.weights[0].std == pytest.approx(std)

        # And the rule is what torch's own initialisation does.
        real = torch.cat([layer().weight.detach().flatten() for _ in range(100)])
        assert real.std().item() == pytest.approx(std, rel=0.05)


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
        assert type(model[1:]) is nn.Sequential
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
        assert type(model[3:]) is nn.ModuleList
        assert [type(child) for child in model[3:]] == [nn.ReLU, nn.Tanh]
        assert type(shapeshift.materialize(model)) is nn.ModuleList

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


def test_a_forward_that_was_replaced_on_the_instance_still_runs() -> None:
    model, x = mlp(), torch.randn(2, 16)
    forward = model.forward
    model.forward = lambda x: forward(x) * 2
    shapeshift.compress(model, 0.6)
    expected = model(x)
    found = gradients(model, (x,))
    assert any(".store." in name for name in found)
    assert_close(shapeshift.materialize(model)(x), expected, "identical")


class TestParametrizations:
    @pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
    def test_of_torch_are_kept(self, name: str) -> None:
        torch.manual_seed(0)
        layer = getattr(nn.utils.parametrizations, name)(nn.Linear(12, 12))
        model, x = nn.Sequential(layer, nn.Tanh(), nn.Linear(12, 12)).eval(), torch.randn(2, 12)
        shapeshift.compress(model, 0.8)
        expected = model(x)
        assert all(gradient.isfinite().all() for gradient in gradients(model, (x,)).values())
        shapeshift.materialize(model)
        assert_close(model(x), expected, "identical")
        assert nn.utils.parametrize.is_parametrized(model[0])

    def test_those_of_afterwards_are_kept_or_named(self) -> None:
        class Doubled(nn.Module):
            def forward(self, bias: Tensor) -> Tensor:
                return 2 * bias

        model, x = shapeshift.compress(nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12)), 0.5), torch.randn(2, 12)
        plain = model(x)
        nn.utils.parametrize.register_parametrization(model[0], "bias", Doubled())
        expected = model(x)
        with pytest.raises(ModelError, match="0 became a ParametrizedLinear after it was compressed"):
            shapeshift.materialize(model)
        assert_close(model(x), expected, "identical")
        nn.utils.parametrize.remove_parametrizations(model[0], "bias", leave_parametrized=False)
        assert_close(shapeshift.materialize(model)(x), plain, "identical")


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("combine", list(GENERATORS))
def test_starting_values_are_drawn_on_the_cpu_whatever_the_default_device(device: str, combine: str) -> None:
    options = {"combine": combine, "seed": 0, "include": ["2", "4"]}
    model = mlp()
    expected = shapeshift.compress(copy.deepcopy(model), 0.9, **options).state_dict()
    with torch.device(device):
        shapeshift.compress(model, 0.9, **options)
    found = {name: value for name, value in model.state_dict().items() if name.startswith("shapeshift.")}
    assert_close(found, {name: expected[name] for name in found}, "identical")


def test_a_layer_that_derives_from_a_generated_class_can_be_copied() -> None:
    model, x = shapeshift.compress(mlp(), 0.5), torch.randn(2, 16)
    expected = model(x)
    model[0].__class__ = type("Derived", (type(model[0]),), {})  # as FSDP2 does
    model.load_state_dict(model.state_dict(), assign=True)
    assert_close(copy.deepcopy(model)(x), expected, "identical")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_of_a_traced_model_are_refused(duplicate: Callable[[nn.Module], Any]) -> None:
    model, x = torch.fx.symbolic_trace(mlp(depth=2)), torch.randn(2, 16)
    outputs = shapeshift.compress(model, "60%")(x)
    with pytest.raises(ModelError, match=r"GraphModule cannot be copied .* shapeshift\.save"):
        duplicate(model)
    assert_close(model(x), outputs, "identical")
    assert_close(copy.deepcopy(shapeshift.materialize(model))(x), outputs, "reordered")


def test_a_compressed_model_is_not_traced_into_a_graph() -> None:
    model = shapeshift.compress(mlp(depth=2), "60%")
    for wrapped in (model, nn.Sequential(model, nn.ReLU())):
        with pytest.raises(ModelError, match=r"torch\.fx traces Sequential.*compress the traced one"):
            torch.fx.symbolic_trace(wrapped)
    graph = shapeshift.compress(torch.fx.symbolic_trace(mlp(depth=2)), "60%")
    graph(torch.randn(2, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_a_compressed_model_is_not_scripted() -> None:
    model = shapeshift.compress(mlp(), 0.5)
    for part in (model, model[0], nn.Sequential(model)):
        with pytest.raises(ModelError, match=r"torch\.jit\.script compiles .* after shapeshift\.materialize"):
            torch.jit.script(part)
    x = torch.randn(2, 16)
    expected = model(x)
    assert_close(torch.jit.script(shapeshift.materialize(model))(x), expected, "reordered")


def test_data_parallel_copies_are_refused() -> None:
    model = shapeshift.compress(mlp(), 0.5)
    with pytest.raises(ModelError, match=r"use torch\.nn\.parallel\.DistributedDataParallel"):
        model._replicate_for_data_parallel()


def test_names_may_come_from_a_generator() -> None:
    assert names(mlp(), 0.9, exclude=(name for name in ["0", "2"])) == names(mlp(), 0.9, exclude=["0", "2"])


def test_a_name_is_no_pattern_where_something_has_it() -> None:
    model = nn.ModuleDict({"l[1]": nn.Linear(8, 8), "l1": nn.Linear(8, 8)})
    assert names(model, 0.8, exclude=["l[1]"]) == {"l1.weight"}


def test_numpy_numbers_are_seeds_too() -> None:
    assert shapeshift.Config(seed=np.int64(3)).to_dict() == shapeshift.Config(seed=3).to_dict()


def test_numpy_numbers_are_budgets_too() -> None:
    assert plan_compression(mlp(), np.int64(500)).budget == 500
    assert plan_compression(mlp(), np.float64(0.5)).budget == shapeshift.count_parameters(mlp()) // 2


def test_subclasses_keep_their_methods_and_super_calls() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale()

        def scale(self) -> float:
            return 2.0

    model, x = nn.Sequential(Scaled(8, 8), Scaled(8, 8)), torch.randn(2, 8)
    shapeshift.compress(model, 0.8)
    assert isinstance(model[0], Scaled)
    assert_close(model[0](x), 2 * nn.functional.linear(x, model[0].weight, model[0].bias), "identical")
    expected = model(x)
    assert_close(shapeshift.materialize(model)(x), expected, "identical")
    assert type(model[0]) is Scaled


def test_dtype_and_device_moves() -> None:
    model, x = shapeshift.compress(Language(), 0.5).eval(), torch.randint(31, (2, 6))
    expected = model(x)
    assert_close(model.double()(x), expected.double(), "reordered")
    assert model.embedding.weight.dtype == torch.float64
    materialized = shapeshift.materialize(model)
    assert {parameter.dtype for parameter in materialized.parameters()} == {torch.float64}
    assert tensors(materialized(x))[0].dtype == torch.float64


def test_training_mode_reaches_every_layer() -> None:
    model = shapeshift.compress(Residual(), 0.5)
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.eval().modules())


def test_the_error_of_a_write_is_of_our_kind() -> None:
    assert issubclass(GeneratedWeightError, shapeshift.ShapeshiftError)
    assert issubclass(GeneratedWeightError, RuntimeError)


@pytest.mark.parametrize("combine", list(GENERATORS))
def test_a_model_on_the_meta_device_runs_and_is_materialized_there(combine: str) -> None:
    with torch.device("meta"):
        model, x = shapeshift.compress(mlp(), 1.0, combine=combine), torch.randn(2, 16)
        assert model(x).shape == mlp()(x).shape
        assert model[0].weight.t().is_meta
        model(x).sum().backward()
    assert all(tensor.is_meta for tensor in shapeshift.materialize(model).parameters())


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


def test_a_mapping_takes_every_name_of_a_tied_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    plan = plan_compression(model, 0.9, mapping={"2": "tied", "1": "alone"})
    assert {group.name: group.weights[0].name for group in plan.groups} == {"tied": "0.weight", "alone": "1.weight"}
    with pytest.raises(ConfigError, match="mapping: '2' matches no weight that is generated"):
        plan_compression(mlp(), 0.9, mapping={"2": "a", "*": "b"}, exclude=["2"])


def test_a_generated_weight_can_be_copied_from() -> None:
    model = shapeshift.compress(mlp(), 0.5)
    with pytest.warns(UserWarning, match="copy construct"):
        copied = torch.tensor(model[0].weight)
    assert type(copied) is Tensor
    assert_close(copied, model[0].weight.clone().detach(), "identical")


def test_labels_of_any_type_make_a_config_that_can_be_written_down() -> None:
    for labels in (list(np.array([1, 2, 1])), [1, 2, 1], ["1", "2", "1"]):
        assert shapeshift.Config(mapping=labels).to_dict() == shapeshift.Config(mapping=("1", "2", "1")).to_dict()
