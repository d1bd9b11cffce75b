"""A fit keeps what a model has learned: exactly where the budget allows it, and as well as possible below."""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import shapeshift
from shapeshift.errors import BudgetError, ConfigError, DataError, MissingExtraError, ModelError
from shapeshift.generators import GENERATORS
from shapeshift.plan import budget_range
from shapeshift.surgery.roots import require_shared
from tests.fitted import FITTED, Chained, build_again, correlated, errors_of, gpt2, shared_weights
from tests.models import MODELS, Language, PartlyFrozen, Residual, gradients, mlp, tensors
from tests.tolerances import assert_close


@pytest.mark.parametrize("budget", [1.0, 1.003, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("name", MODELS)
def test_a_budget_of_the_models_size_or_more_keeps_its_outputs(name: str, budget: float) -> None:
    model, inputs = MODELS[name].build().eval(), MODELS[name].inputs()
    expected, dense = tensors(model(*inputs)), shapeshift.count_parameters(model)
    shapeshift.compress(model, budget, init="fit")
    assert 0.99 * budget * dense <= shapeshift.count_parameters(model) <= budget * dense
    found = tensors(model(*inputs))
    assert_close(found, expected, "half" if name == "mixed dtypes" else "fitted")


@pytest.mark.parametrize(
    "options", [{"mapping": "shape"}, {"mapping": "random"}, {"combine": "emb"}, {"combine": "avg"}]
)
@pytest.mark.parametrize("budget", [1.0, 3.0])
@pytest.mark.parametrize("build", [Residual, Language])
def test_other_methods_keep_the_outputs_as_well(build: type[nn.Module], budget: float, options: dict[str, str]) -> None:
    model = build().eval()
    (inputs,) = MODELS[build.__name__.lower()].inputs()
    expected = model(inputs)
    shapeshift.compress(model, budget, init="fit", **options)
    assert_close(model(inputs), expected, "fitted")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_real_network_keeps_its_outputs(name: str) -> None:
    small = {"img_size": 32, "depth": 2} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=5, **small).eval()
    if name == "resnet18":
        for stage in (model.layer3, model.layer4):
            stage.requires_grad_(False)  # left out, which keeps the test fast
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    shapeshift.compress(model, "100%", init="fit")
    assert_close(model(x), expected, "fitted")


def test_a_larger_budget_has_a_smaller_error() -> None:
    errors = []
    for budget in (0.3, 0.5, 0.7, 0.9, 1.0):
        found = errors_of(shapeshift.compress(build_again(), budget, init="fit", seed=0))
        errors.append(math.sqrt(sum(error**2 for error in found.values()) / len(found)))
    assert all(larger > 1.05 * smaller for larger, smaller in itertools.pairwise(errors))
    assert errors[-1] < 1e-5


def test_the_default_draws_as_it_did_before_there_was_a_choice() -> None:
    first, second = (shapeshift.compress(build_again(), 0.6, seed=3, **options) for options in ({}, {"init": "random"}))
    assert_close(dict(first.state_dict()), dict(second.state_dict()), "identical")
    store = torch.cat([piece.flatten() for piece in require_shared(first)["all"].store])
    drawn = torch.randn(store.shape[0], 1, generator=torch.Generator().manual_seed(3)).flatten()
    assert torch.equal(store.sign(), drawn.sign())  # scaled by the deviations of the weights that read it
    assert errors_of(first) == {}


def test_training_goes_on_from_the_fitted_loss() -> None:
    teacher, x = build_again(), correlated(256, seed=1)
    labels = (x @ torch.randn(24, 6)).argmax(1)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(teacher.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), labels).backward()
        optimizer.step()
    learned = F.cross_entropy(teacher(x), labels).item()

    losses: dict[str, list[float]] = {}
    for init, calibration in (("random", None), ("fit", [x])):
        student = shapeshift.compress(copy.deepcopy(teacher), 0.7, init=init, calibration=calibration, seed=0)
        fitted = F.cross_entropy(student(x), labels).item()
        distiller = shapeshift.distill.KD(teacher, student)
        optimizer = torch.optim.SGD(shapeshift.parameter_groups(student, weight_decay=0.0), 0.02, momentum=0.9)
        losses[init] = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = F.cross_entropy(student(x), labels)
            losses[init].append(loss.item())
            (loss + distiller(x, labels)).backward()
            optimizer.step()
        assert losses[init][0] == fitted
    assert losses["fit"][0] - learned < 0.2 * (losses["random"][0] - learned)
    assert losses["fit"][-1] < losses["fit"][0] < losses["random"][-1]


@pytest.mark.parametrize("budget", [0.4, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("combine", ["wavg", "avg", "emb"])
def test_a_step_on_the_store_moves_no_weight_further_than_one_on_itself(combine: str, budget: float) -> None:
    model = shapeshift.compress(Residual(width=12), budget, combine=combine, init="fit")
    (group,) = require_shared(model).generators()
    steps = []
    for index, weight in enumerate(group.weights):
        if weight.std > 0:
            # How far a step along the gradient of the weight's first number moves that number.
            (slope,) = torch.autograd.grad(group.generate([index])[0].flatten()[0], list(group.store))
            steps.append(slope.square().sum().item())
    assert max(steps) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("budget", [0.4, 0.8, 2.0])
def test_a_step_on_coefficients_moves_no_weight_further_than_one_on_itself(budget: float) -> None:
    model = shapeshift.compress(Residual(width=12), budget, max_templates=5, init="fit")
    (group,) = require_shared(model).generators()
    trained = [index for index, weight in enumerate(group.weights) if weight.std > 0]
    combinations = group.layout.combinations
    mixed = [(index, combinations[index]) for index in trained if combinations[index].count > 1]
    assert len(mixed) > 1
    for index, draw in mixed:
        columns = []
        for position in range(draw.start, draw.start + draw.count):
            group.coefficients.data = F.one_hot(torch.tensor(position), group.coefficients.numel()).float()
            columns.append(group.generate([index])[0].detach().flatten())
        assert 1 / math.sqrt(draw.count) <= torch.linalg.matrix_norm(torch.stack(columns), 2) <= 1.001


@pytest.mark.parametrize("mapping", ["single", "shape"])
@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_a_store_is_read(name: str, mapping: str) -> None:
    for budget in (0.4, 0.8, 1.0, 1.5, 4.0):
        plan = shapeshift.plan_compression(MODELS[name].build(), budget, mapping=mapping, init="fit")
        assert 0.99 * plan.budget <= plan.total <= plan.budget
        for group in shapeshift.report(plan).groups:
            read = torch.zeros(group.stores["store"], dtype=torch.bool)
            for weight in group.weights:
                for window in weight.source.templates:
                    read[window.begin : window.end] = True
            assert read.all()


@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_trained_after_a_fit(name: str) -> None:
    model, inputs = MODELS[name].build(), MODELS[name].inputs()
    shapeshift.compress(model, 0.8, init="fit")
    found = gradients(model, inputs)
    assert set(found) == {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_frozen_parameters_stay_and_ties_hold() -> None:
    model = PartlyFrozen()
    frozen = model.frozen.weight.clone()
    shapeshift.compress(model, 0.8, init="fit")
    assert_close(model.frozen.weight, frozen, "identical")
    assert not model.frozen.weight.requires_grad

    tied = shapeshift.compress(gpt2(), 1.0, init="fit")
    assert_close(tied.lm_head.weight @ torch.eye(16), tied.transformer.wte.weight @ torch.eye(16), "identical")
    shapeshift.materialize(tied)
    assert tied.lm_head.weight is tied.transformer.wte.weight


@pytest.mark.parametrize("budget", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("mapping", ["single", "shape"])
def test_weights_of_zeros_stay_zero(mapping: str, budget: float) -> None:
    model = shapeshift.compress(Residual(), budget, mapping=mapping, init="fit")
    weights = shared_weights(model)
    assert not weights["branches.2.2.weight"].any()
    assert errors_of(model)["branches.2.2.weight"] == 0
    assert weights["branches.1.2.weight"].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.dim() > 1}
    shapeshift.compress(model, 1.0, init="fit")
    found = shared_weights(model)
    assert {weight.dtype for weight in found.values()} == {dtype}
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert_close(found, weights, "fitted" if dtype == torch.float64 else "half")
    assert max(errors_of(model).values()) < 0.01


def test_the_report_names_the_error_of_each_layer(tmp_path: Path) -> None:
    model = shapeshift.compress(build_again(), 0.6, init="fit", seed=0)
    plain_weights = dict(build_again().named_parameters())
    errors = errors_of(model)
    for name, made in shared_weights(model).items():
        distance = (made - plain_weights[name]).norm() / plain_weights[name].norm()
        assert errors[name] == pytest.approx(distance.item(), rel=1e-4)
    report = shapeshift.report(model)
    worst = max(errors, key=errors.__getitem__)
    assert f"at most {errors[worst]:.1%} in {worst}" in report.summary()
    assert "fitted" not in shapeshift.report(shapeshift.compress(build_again(), 0.6)).summary()
    content = json.loads(json.dumps(report.as_dict()))
    assert {w["name"]: w["error"] for group in content["groups"] for w in group["weights"]} == errors

    shapeshift.save(model, tmp_path)
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shapeshift.compression.fit_to_model", lambda *args: calls.append(args))
        restored = shapeshift.load(tmp_path, Chained())
    assert not calls
    assert errors_of(restored) == errors
    assert require_shared(restored).plan.config.init == "fit"
    assert_close(shared_weights(restored), shared_weights(model), "identical")


def test_a_config_with_a_fit_survives_json() -> None:
    config = shapeshift.Config(init="fit", max_templates=3)
    assert shapeshift.Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert shapeshift.Config.from_dict({"mapping": "shape"}).init == "random"  # as files of older versions


def test_a_seed_repeats_a_fit() -> None:
    twins = [shapeshift.compress(build_again(), 0.5, init="fit", seed=4) for _ in range(2)]
    assert_close(*(dict(twin.state_dict()) for twin in twins), "identical")


@pytest.mark.parametrize("combine", [name for name in GENERATORS if name not in FITTED])
def test_generators_that_cannot_be_fitted_are_named(combine: str) -> None:
    with pytest.raises(ConfigError, match=rf"{combine}.*'avg', 'emb', 'ring', 'rr', 'wavg'"):
        shapeshift.Config(combine=combine, init="fit")


def compress_nan(model: nn.Module) -> None:
    model.layers[2].weight.data[0, 0] = math.nan
    shapeshift.compress(model, 0.5, init="fit")


def test_the_error_says_what_to_do_and_the_model_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(4, seed=1)
    attempts: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ConfigError, 'init must be "random" or "fit"', {"init": "svd"}),
        (ConfigError, 'calibration is for a fit: add init="fit"', {"calibration": [x]}),
        (ConfigError, 'progress is for a fit: add init="fit"', {"progress": True}),
        (DataError, "empty", {"init": "fit", "calibration": []}),
        (DataError, "holds no tensor", {"init": "fit", "calibration": ["text"]}),
        (ModelError, r"layers\.0\.weight read values that are not finite", {"init": "fit", "calibration": [x / 0]}),
        (RuntimeError, "shapes cannot be multiplied", {"init": "fit", "calibration": [x[:, :5]]}),
        (BudgetError, "least", {"init": "fit", "budget": 3}),
    ]
    for error, message, options in attempts:
        model = build_again()
        state = copy.deepcopy(model.state_dict())
        with pytest.raises(error, match=message):
            shapeshift.compress(model, **{"budget": 0.5, **options})
        assert not shapeshift.is_compressed(model)
        assert_close(dict(model.state_dict()), dict(state), "identical")
        assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ModelError, match=r"layers\.2\.weight .* holds NaN"):
        compress_nan(build_again())
    with torch.device("meta"):
        model = Chained()
    with pytest.raises(
        ModelError, match=r"layers\.0\.weight \(24, 24\) is on the meta device and has no values to fit"
    ):
        shapeshift.compress(model, 0.5, init="fit")
    assert not shapeshift.is_compressed(model)
    assert shapeshift.plan_compression(model, 0.5, init="fit").total <= budget_range(model, shapeshift.Config())[1]
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(MissingExtraError, match="progress bar"):
        shapeshift.compress(build_again(), 0.5, init="fit", progress=True)


def test_progress_is_shown_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shapeshift.compress(build_again(), 0.5, init="fit")
    assert capsys.readouterr().err == ""
    shapeshift.compress(build_again(), 0.5, init="fit", progress=True)
    shown = capsys.readouterr().err
    assert "fitting" in shown
    assert "error=0." in shown


def test_a_fitted_model_leaves_a_plain_one(tmp_path: Path) -> None:
    model = build_again().eval()
    x = correlated(4, seed=1)
    expected = model(x)
    shapeshift.materialize(shapeshift.compress(model, "150%", init="fit", calibration=[x]))
    assert type(model.layers[0]) is nn.Linear
    assert_close(model(x), expected, "fitted")
