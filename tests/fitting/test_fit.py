"""A fit keeps what a model has learned: exactly where the budget allows it, and as well as possible below."""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import BudgetError, ConfigError, DataError, MissingExtraError, ModelError
from shapeshift.fitting import calibrate, fit_group
from shapeshift.fitting.error_maps import plain
from shapeshift.fitting.least_squares import LeastSquares
from shapeshift.generators import GENERATORS
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.plan import budget_range
from shapeshift.surgery.roots import require_shared
from shapeshift.upsamplers import UPSAMPLERS
from shapeshift.weights import find_weights
from tests.models import MODELS, Convolutions, Language, PartlyFrozen, Residual, gradients, mlp, tensors
from tests.tolerances import assert_close

FITTED = [name for name in GENERATORS if GENERATORS[name].fits]


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config).eval()


def shared_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return every generated weight of a compressed model by name."""
    return {
        weight.name: group.generate([index])[0].detach()
        for group in require_shared(model).generators()
        for index, weight in enumerate(group.weights)
    }


def errors_of(model: nn.Module) -> dict[str, float]:
    """Return the relative errors that the report of a fitted model names."""
    report = shapeshift.report(model)
    return {
        weight.name: weight.error for group in report.groups for weight in group.weights if weight.error is not None
    }


def similar_layers(count: int = 6, rank: int = 3, noise: float = 0.3) -> nn.Sequential:
    """Make layers of one shape that are mixtures of few matrices and noise, as layers that learned alike."""
    basis, layers = torch.randn(rank, 12, 10), [nn.Linear(10, 12, bias=False) for _ in range(count)]
    for layer in layers:
        mixture = torch.einsum("k,koi->oi", torch.randn(rank), basis)
        layer.weight.data = mixture + noise * torch.randn(12, 10)
    return nn.Sequential(*layers)


class Chained(nn.Module):
    """A classifier of correlated inputs, as data has them: few directions hold nearly all of the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def correlated(count: int, seed: int) -> Tensor:
    directions = torch.randn(24, 24, generator=torch.Generator().manual_seed(7)) * 0.7 ** torch.arange(24)
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed)) @ directions.T


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


def build_again() -> nn.Module:
    torch.manual_seed(5)
    return Chained()


@pytest.mark.parametrize("templates", [1, 2, 3, 5])
def test_equal_shapes_are_fitted_as_well_as_by_a_truncated_svd(templates: int) -> None:
    model = similar_layers()
    weights = [layer.weight for layer in model]
    # Scaled as the fit weighs them: relative to their norms.
    stacked = torch.stack([weight.detach().flatten() / weight.detach().norm() for weight in weights])
    best = torch.linalg.svdvals(stacked)[templates:].norm()
    budget = templates * (12 * 10 + len(weights)) if templates > 1 else 12 * 10
    shapeshift.compress(model, budget, init="fit", max_templates=templates, seed=0)
    (group,) = shapeshift.report(model).groups
    assert {weight.source.templates for weight in group.weights} == {group.weights[0].source.templates}
    assert group.stores == {"store": templates * 120}
    found = math.sqrt(sum(error**2 for error in errors_of(model).values()))
    if templates == 1:  # without coefficients, one template is a mean
        assert best <= found <= 1.5 * math.sqrt(len(weights))
    else:
        assert best * (1 - 1e-5) <= found <= 1.01 * best


@pytest.mark.parametrize("upsample", list(UPSAMPLERS))
@pytest.mark.parametrize("combine", FITTED)
def test_conjugate_gradients_solve_what_a_dense_solver_solves(combine: str, upsample: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(8, 9)).double()
    plan = shapeshift.plan_compression(model, 80, combine=combine, upsample=upsample, init="fit", embedding_size=2)
    shared = shapeshift.compression.SharedParameters(plan)
    shared.reset_parameters()
    (group,) = shared.generators()
    wanted = [model.get_parameter(weight.name).detach() for weight in group.weights]
    problem = LeastSquares(group, range(len(wanted)), [plain] * len(wanted), wanted)
    target = torch.cat([weight.flatten() for weight in wanted])
    parts = group.linear_parts()
    assert {id(p) for part in parts for p in part} == {id(p) for p in group.parameters()}
    for part in parts:
        sizes = [parameter.numel() for parameter in part]

        def made(values: Tensor, part: list[nn.Parameter] = part, sizes: list[int] = sizes) -> Tensor:
            with torch.no_grad():
                for parameter, piece in zip(part, values.split(sizes), strict=True):
                    parameter.copy_(piece.view(parameter.shape))
                return torch.cat([weight.flatten() for weight in group.generate(range(len(wanted)))])

        start = torch.cat([parameter.detach().flatten() for parameter in part])
        offset = made(torch.zeros_like(start))
        columns = torch.stack([made(unit) - offset for unit in torch.eye(len(start), dtype=torch.float64)], 1)
        assert_close(made(2 * start) - offset, 2 * (made(start) - offset), "double")  # linear, as promised
        best = columns @ torch.linalg.lstsq(columns, (target - offset)[:, None], driver="gelsd").solution[:, 0] + offset
        made(start)
        loss = problem.solve(part, steps=500, tolerance=0)
        now = torch.cat([weight.flatten() for weight in group.generate(range(len(wanted)))])
        assert_close(now.detach(), best, "conjugate gradients")
        assert_close(loss, ((best - target).square().sum() / target.square().sum()).item(), "conjugate gradients")


@pytest.mark.parametrize("combine", FITTED)
def test_alternating_lowers_the_error_in_every_round(combine: str) -> None:
    model = similar_layers(8)
    plan = shapeshift.plan_compression(model, 0.5, combine=combine, init="fit", seed=0)
    shared = shapeshift.compression.SharedParameters(plan)
    shared.reset_parameters()
    (group,) = shared.generators()
    rounds: list[float] = []
    found = fit_group(group, [layer.weight for layer in model], on_round=rounds.append)
    assert all(later <= before * (1 + 1e-6) for before, later in itertools.pairwise(rounds))
    assert rounds[-1] == pytest.approx(math.sqrt(sum(error**2 for error in found.values()) / len(found)), rel=1e-3)
    for layer, error in zip(model, found.values(), strict=True):
        index = list(model).index(layer)
        distance = (group.generate([index])[0] - layer.weight).norm() / layer.weight.norm()
        assert error == pytest.approx(distance.item(), rel=1e-3)


def test_the_default_draws_as_it_did_before_there_was_a_choice() -> None:
    first, second = (shapeshift.compress(build_again(), 0.6, seed=3, **options) for options in ({}, {"init": "random"}))
    assert_close(dict(first.state_dict()), dict(second.state_dict()), "identical")
    store = torch.cat([piece.flatten() for piece in require_shared(first)["all"].store])
    drawn = torch.randn(store.shape[0], 1, generator=torch.Generator().manual_seed(3)).flatten()
    assert torch.equal(store.sign(), drawn.sign())  # scaled by the deviations of the weights that read it
    assert errors_of(first) == {}


@pytest.mark.parametrize("mapping", ["single", "shape"])
@pytest.mark.parametrize("budget", ["100%", "150%"])
def test_calibration_loses_nothing_where_there_is_room_for_everything(budget: str, mapping: str) -> None:
    torch.manual_seed(0)
    original, x = WideResNet(10, 0.5).eval(), torch.randn(16, 3, 8, 8).cumsum(-1)
    model = shapeshift.compress(copy.deepcopy(original), budget, mapping=mapping, init="fit", calibration=[x])
    assert_close(model.eval()(x), original(x), "fitted")


def test_calibration_lowers_the_error_of_outputs_on_other_inputs() -> None:
    for budget in (0.5, 0.75):
        original = build_again()
        held_out = correlated(256, seed=2)
        expected = original(held_out)
        off = {}
        for name, loader in (("plain", None), ("calibrated", [(correlated(128, seed=1), None)] * 2)):
            model = shapeshift.compress(copy.deepcopy(original), budget, init="fit", calibration=loader, seed=0)
            off[name] = ((model(held_out) - expected).norm() / expected.norm()).item()
        assert off["calibrated"] < 0.7 * off["plain"]


class Conv1D(nn.Conv1d):
    """A convolution that is called as GPT-2's linear layer is."""


def cases() -> Iterator[Any]:
    conv = {"stride": 2, "padding": 1, "dilation": 2, "bias": False}
    yield pytest.param(nn.Linear(6, 5, bias=False), torch.randn(7, 3, 6), id="linear")
    yield pytest.param(nn.Conv1d(1, 4, 3, bias=False), torch.randn(5, 1, 9), id="conv1d")
    yield pytest.param(Conv1D(1, 4, 3, bias=False), torch.randn(5, 1, 9), id="conv1d of that name")
    yield pytest.param(nn.Conv2d(1, 4, 3, **conv), torch.randn(3, 1, 9, 8), id="conv2d")
    yield pytest.param(nn.Conv2d(6, 4, 1, bias=False), torch.randn(3, 6, 5, 4), id="pointwise")
    yield pytest.param(nn.Conv2d(6, 4, 1, groups=2, bias=False), torch.randn(3, 6, 5, 4), id="groups")
    yield pytest.param(
        nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular", bias=False), torch.randn(3, 1, 5, 4), id="circular"
    )
    yield pytest.param(nn.Conv3d(1, 4, 2, bias=False), torch.randn(3, 1, 4, 5, 4), id="conv3d")
    yield pytest.param(nn.Embedding(9, 4), torch.randint(9, (6, 5)), id="embedding")
    yield pytest.param(transformers.pytorch_utils.Conv1D(5, 6), torch.randn(7, 3, 6), id="transposed")


@pytest.mark.parametrize(("layer", "inputs"), list(cases()))
def test_an_error_map_measures_the_error_of_a_layers_outputs(
    layer: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Exact where the input has one channel, or the kernel one position: there the product of two moments is the moment.
    monkeypatch.setattr("shapeshift.fitting.moments._DAMPING", 1e-9)
    model = nn.Sequential(layer)
    (weight,) = find_weights(model)
    error_map = calibrate(model, [weight], [inputs[:2], (inputs[2:], "a label")])[weight.name]
    sizes = []
    for _ in range(3):
        difference = torch.randn(weight.shape)
        broken = copy.deepcopy(layer)
        broken.weight.data += difference
        sizes.append((error_map(difference).norm() / (broken(inputs) - layer(inputs)).norm()).item())
    assert max(sizes) == pytest.approx(min(sizes), rel=1e-3)


def test_a_tied_weight_is_judged_by_all_of_its_layers() -> None:
    model = Language().eval()
    tokens = torch.randint(31, (4, 6))
    weights = find_weights(model)
    error_maps = calibrate(model, weights, [{"tokens": tokens}])
    tied = next(weight for weight in weights if len(weight.names) == 2)
    difference = torch.randn(tied.shape)
    alone = calibrate(Language(tied=False).eval(), find_weights(Language(tied=False)), [tokens])
    assert error_maps[tied.name](difference).numel() == 2 * difference.numel()
    assert alone["embedding.weight"](difference).numel() == difference.numel()
    # Attention reads its projection without calling a layer.
    assert "attention.in_proj_weight" not in error_maps
    assert "encoder.layers.0.linear1.weight" in error_maps


def test_calibration_leaves_the_model_as_it_was() -> None:
    model = Convolutions()
    model.norm.eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    calibrate(model, find_weights(model), [torch.randn(2, 4, 4)])
    assert_close(dict(model.state_dict()), dict(state), "identical")
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("batch", ["tensor", "tuple", "dict"])
def test_every_kind_of_batch_calibrates(batch: str) -> None:
    tokens = torch.randint(1, 40, (2, 8))
    loader = [{"tensor": tokens, "tuple": (tokens, tokens), "dict": {"input_ids": tokens, "labels": tokens}}[batch]]
    model = shapeshift.compress(gpt2(), 0.6, init="fit", calibration=iter(loader), seed=0)
    assert shapeshift.is_compressed(model)
    assert 0 < max(errors_of(model).values()) < 1.5
    assert model(tokens).logits.isfinite().all()


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
    mixed = [
        (index, group.layout.combinations[index]) for index in trained if group.layout.combinations[index].count > 1
    ]
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
    with pytest.raises(ConfigError, match=rf"{combine}.*'avg', 'emb', 'rr', 'wavg'"):
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
    monkeypatch.setitem(sys.modules, "tqdm", None)
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
