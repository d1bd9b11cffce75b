"""Soft sharing: who shares, what similarity and its regulariser measure, and folding into a recurrent network."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel

import shapeshift
from benchmarks import folding as folding_benchmark
from shapeshift.errors import CheckpointError, ConfigError, MissingExtraError, ModelError
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import TemplateLayout
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import (
    Folding,
    SimilarityRecorder,
    fold,
    layer_similarity,
    plot_similarity,
    regulariser,
    similarity,
    soft_share,
)
from shapeshift.recurrence.graph import mermaid
from shapeshift.recurrence.repeat import Repeat
from shapeshift.recurrence.rows import find_rows
from shapeshift.recurrence.schedule import Schedule
from shapeshift.recurrence.ties import nearly_equal
from shapeshift.surgery.roots import require_shared
from shapeshift.weights import Weight
from tests.golden import Arrays, cases
from tests.models import gradients, mlp, tensors
from tests.tolerances import assert_close


def wrn(**options: Any) -> nn.Module:
    """Make a wide residual network with three blocks in each stage, of which two are alike."""
    return WideResNet(22, 0.5, **options)


def bert() -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(intermediate_size=32, **sizes, **dropout))


def images(side: int = 8) -> tuple[Tensor]:
    return (torch.randn(4, 3, side, side),)


def members(model: nn.Module) -> dict[str, list[str]]:
    plan = require_shared(model).plan
    return {group.name: [weight.name for weight in group.weights] for group in plan.groups}


def coefficients(model: nn.Module, group: str) -> Tensor:
    """Return the coefficients of a group as a matrix to be written to."""
    found = require_shared(model)[group]
    return found.coefficients.data.view(len(found.weights), -1)


# --- Soft sharing ---


@pytest.mark.parametrize(
    ("width", "templates", "millions"), [(10, 2, 17.1), (6, 2, 6.1), (14, 2, 33.5), (10, None, 36.5)]
)
def test_parameter_counts_are_the_papers(width: int, templates: int | None, millions: float) -> None:
    with torch.device("meta"):
        model = soft_share(WideResNet(28, width), templates)
    # The paper's numbers are rounded, one of them down.
    assert shapeshift.count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.08)
    assert shapeshift.count_parameters(model) == shapeshift.report(model).parameters


def test_the_first_two_layers_of_each_stage_keep_their_own_weights() -> None:
    model = soft_share(WideResNet(28, 0.5), 2)
    assert members(model) == {
        f"stage{stage}_{channels}x{channels}x3x3": [
            f"blocks.{4 * stage - 4 + block}.conv{conv}.weight" for block in (1, 2, 3) for conv in (1, 2)
        ]
        for stage, channels in ((1, 8), (2, 16), (3, 32))
    }
    for group in require_shared(model).plan.groups:
        numel = group.weights[0].numel
        assert group.layout.store_size == 2 * numel
        assert all(
            draw.template_slices == [slice(0, numel), slice(numel, 2 * numel)] for draw in group.layout.combinations
        )


class ByHand(nn.Module):
    """Layers as attributes, of which some match, and some start at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv1 = nn.Conv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.conv3 = nn.Conv2d(8, 8, 3)
        self.zero = nn.Conv2d(8, 8, 3)
        nn.init.zeros_(self.zero.weight)
        self.wide = nn.Conv2d(8, 16, 3)
        self.last = nn.Conv2d(16, 16, 3)


GROUPS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "layers as attributes": (ByHand, {"stage1_8x8x3x3": 3}),
    "norms between layers": (lambda: timm.create_model("vgg11_bn"), {"stage1_512x512x3x3": 3}),
    "a block alone": (lambda: WideResNet(16, 0.5), {f"stage{n}_{c}x{c}x3x3": 2 for n, c in enumerate((8, 16, 32), 1)}),
    "several shapes": (
        lambda: bert(),
        {"stage1_16x16": 16, "stage1_32x16": 4, "stage1_16x32": 4},
    ),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_what_is_built_alike_shares(kind: str) -> None:
    build, expected = GROUPS[kind]
    with torch.device("meta" if kind == "norms between layers" else "cpu"):
        model = soft_share(build(), 2)
    assert {name: len(names) for name, names in members(model).items()} == expected


def test_weights_start_as_the_models_own_from_orthogonal_coefficients() -> None:
    model = wrn()
    before = {name: parameter.std(correction=0) for name, parameter in model.named_parameters()}
    soft_share(model, 3)
    for group in require_shared(model).generators():
        matrix = group.coefficients.detach().view(len(group.weights), 3)
        assert_close(matrix.T @ matrix, torch.eye(3), "reordered")
        for index, weight in enumerate(group.weights):
            generated = group.generate([index])[0].detach()
            assert_close(generated.std(correction=0), before[weight.name], "starting deviation")
    _, without = shapeshift.parameter_groups(model, 0.1)
    spared = {id(parameter) for parameter in without["params"]}
    assert all(id(group.coefficients) in spared for group in require_shared(model).generators())
    assert all(id(piece) not in spared for group in require_shared(model).generators() for piece in group.store)


def test_the_seed_of_the_start_is_torchs_own() -> None:
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(soft_share(wrn(), 3).state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    assert not torch.equal(*(state["shapeshift.stage1_8x8x3x3.coefficients"] for state in (built[0], built[2])))


def test_as_many_templates_as_layers_unless_told() -> None:
    dense, model = shapeshift.count_parameters(wrn()), soft_share(wrn())
    assert [group.layout.counts for group in require_shared(model).plan.groups] == [[4] * 4] * 3
    assert shapeshift.count_parameters(model) == dense + 3 * 4 * 4
    # More templates than layers would only cost.
    assert shapeshift.count_parameters(soft_share(wrn(), 9)) == dense + 3 * 4 * 4


def test_include_and_exclude_choose() -> None:
    model = soft_share(wrn(), 2, exclude=["blocks.1.conv2", "blocks.[3-5]"])
    assert members(model)["stage1_8x8x3x3"] == [f"blocks.{name}.weight" for name in ("1.conv1", "2.conv1", "2.conv2")]
    assert list(members(model)) == ["stage1_8x8x3x3", "stage3_32x32x3x3"]
    model = soft_share(wrn(), 2, include=["blocks.[0-2].conv?", "blocks.3.conv2"])
    convolutions = ["blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.2.conv1", "blocks.2.conv2"]
    assert members(model) == {"8x8x3x3": [f"{name}.weight" for name in convolutions]}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"templates": 0}, ConfigError, "templates must be None or an integer of at least 1, not 0"),
        ({"templates": True}, ConfigError, "templates must be None"),
        ({"exclude": ["blokcs"]}, ConfigError, "'blokcs' matches no parameter.*did you mean 'blocks'"),
        ({"include": "blocks"}, ConfigError, "include must be a sequence"),
        ({"include": ["stem", "head"]}, ModelError, "WideResNet has no two layers of one shape.*include="),
    ],
)
def test_what_cannot_be_shared_is_refused_and_the_model_unchanged(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = wrn()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        soft_share(model, **options)
    assert not shapeshift.is_compressed(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_compressed_model_is_refused() -> None:
    with pytest.raises(ModelError, match="compressed already"):
        soft_share(soft_share(wrn(), 2), 2)


def test_a_soft_shared_model_is_saved_and_materialized(tmp_path: Path) -> None:
    model, x = soft_share(wrn(), 2).eval(), images()
    expected = model(*x)
    shapeshift.save(model, tmp_path)
    assert_close(shapeshift.load(tmp_path, wrn()).eval()(*x), expected, "identical")
    assert shapeshift.materialize(model)(*x).equal(expected)


def test_a_model_on_the_meta_device_starts_orthogonally_once_it_is_allocated() -> None:
    with torch.device("meta"):
        model = soft_share(wrn(), 2)
    model.to_empty(device="cpu")
    require_shared(model).reset_parameters()
    matrix = coefficients(model, "stage2_16x16x3x3")
    assert_close(matrix.T @ matrix, torch.eye(2), "reordered")


# --- Golden numbers ---


@pytest.mark.parametrize("case", cases("soft_share"), ids=lambda case: str(case["templates"].shape))
def test_golden_shared_convolutions(case: Arrays) -> None:
    templates, *shape = case["templates"].shape
    numel = int(case["weight"].size)
    weight = Weight(("weight",), tuple(shape), 1.0, torch.float64, torch.device("cpu"))
    layout = TemplateLayout(templates * numel, (Combination(0, templates, numel, templates * numel, 0),), 0)
    group = WeightedAverage([weight], layout, shapeshift.Config())
    alpha = torch.from_numpy(case["alpha"])
    with torch.no_grad():
        group.store[0].copy_(torch.from_numpy(case["templates"]).view(-1, 1))
        # A single template has no coefficient: its gain takes the place.
        (group.gains if group.coefficients is None else group.coefficients).copy_(alpha)
        if group.coefficients is not None:
            group.gains.fill_(1)
    (generated,) = group.generate([0])
    assert_close(generated.detach(), torch.from_numpy(case["weight"]), "golden")
    x = torch.from_numpy(case["x"]).requires_grad_()
    y = F.conv2d(x, generated, padding=shape[-1] // 2)
    assert_close(y.detach(), torch.from_numpy(case["y"]), "golden")
    for upstream, prefix, output in (("G", "d", generated), ("Gy", "y_d", y)):
        group.zero_grad()
        (output * torch.from_numpy(case[upstream])).sum().backward(retain_graph=True)
        expected = torch.from_numpy(case[f"{prefix}templates"]).flatten()
        assert_close(group.store[0].grad.flatten(), expected, "golden")
        if group.coefficients is not None:
            assert_close(group.coefficients.grad, torch.from_numpy(case[f"{prefix}alpha"]), "golden")
    assert_close(x.grad, torch.from_numpy(case["y_dx"]), "golden")


@pytest.mark.parametrize("case", cases("soft_share", "lsm", "num_lsm"), ids=["lsm0", "lsm1"])
def test_golden_similarity_matrices(case: Arrays) -> None:
    found = layer_similarity(torch.from_numpy(case["coeffs"]))
    assert_close(found, torch.from_numpy(case["matrix"]), "golden")


# --- Similarity ---


def test_similarity_is_that_of_the_weights_themselves() -> None:
    model = soft_share(wrn(), 3)
    matrix = similarity(model)["stage1_8x8x3x3"]
    assert matrix.shape == (4, 4)
    assert not matrix.requires_grad
    group = require_shared(model)["stage1_8x8x3x3"]
    with torch.no_grad():
        # Templates that are orthonormal keep the angles between the coefficients.
        basis = torch.linalg.qr(torch.randn(group.weights[0].numel, 3))[0]
        group.store[0].copy_(basis.T.reshape(-1, 1))
        weights = torch.stack(group.generate(range(4))).flatten(1)
    assert_close(matrix, F.cosine_similarity(weights[:, None], weights[None], dim=2).abs(), "reordered")


def test_similarity_of_coefficients_from_embeddings_and_of_one_template() -> None:
    store = 3 * 16 * 16
    model = shapeshift.compress(mlp(16, 3), shapeshift.count_parameters(mlp(16, 3)) * 3, mapping="shape", combine="emb")
    with pytest.raises(ModelError, match="Sequential has no group of layers that mix the same templates"):
        similarity(model)
    model = soft_share(mlp(16, 3), 1)
    assert_close(similarity(model)["stage1_16x16"], torch.ones(3, 3), "reordered")
    assert shapeshift.count_parameters(soft_share(mlp(16, 3), 3)) == store + 9 + 3 * 16 + 16 * 4 + 4


def test_only_a_compressed_model_has_a_similarity() -> None:
    for call in (similarity, lambda model: regulariser(model, 1.0), fold):
        with pytest.raises(ModelError, match="is not compressed"):
            call(wrn())


def test_similarity_is_not_rounded_under_autocast() -> None:
    rows = torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer_similarity(rows)
    assert_close(found, layer_similarity(rows), "identical")


def test_the_regulariser_is_the_mean_dissimilarity() -> None:
    model = soft_share(wrn(), 3)
    loss = regulariser(model, 0.5)
    expected = [1 - matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean() for matrix in similarity(model).values()]
    assert loss.shape == ()
    assert_close(loss.detach(), 0.5 * torch.stack(expected).mean(), "reordered")
    loss.backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"shapeshift.{name}.coefficients" for name in members(model)}
    assert all(group.coefficients.grad.abs().max() > 0 for group in require_shared(model).generators())


@pytest.mark.parametrize("templates", [2, None])
def test_the_regulariser_raises_every_similarity(templates: int | None) -> None:
    torch.manual_seed(0)
    model = soft_share(wrn(), templates)
    before = similarity(model)
    optimizer = torch.optim.SGD([group.coefficients for group in require_shared(model).generators()], 0.5)
    for _ in range(200):
        optimizer.zero_grad()
        regulariser(model, 1.0).backward()
        optimizer.step()
    for name, matrix in similarity(model).items():
        assert matrix.mean() > 0.9 > before[name].mean()


def test_a_recorder_keeps_the_matrices_of_each_epoch(tmp_path: Path) -> None:
    model = soft_share(wrn(), 2)
    recorder = SimilarityRecorder(model)
    start = similarity(model)
    for _ in range(7):
        coefficients(model, "stage1_8x8x3x3")[0] += 1
        recorder.record()
    assert len(recorder.epochs) == 8
    assert_close(recorder.epochs[0], start, "identical")
    assert_close(recorder.epochs[-1], similarity(model), "identical")
    assert not torch.equal(recorder.epochs[1]["stage1_8x8x3x3"], start["stage1_8x8x3x3"])
    kept = json.loads(json.dumps(recorder.as_dict()))
    assert_close(torch.tensor(kept["stage1_8x8x3x3"][3]), recorder.epochs[3]["stage1_8x8x3x3"], "identical")
    recorder.plot(tmp_path / "evolution.png", columns=3)
    plot_similarity(model, tmp_path / "similarity.svg")
    assert (tmp_path / "evolution.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "similarity.svg").read_text()


def test_pictures_name_the_extra_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = soft_share(wrn(), 2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda path: plot_similarity(model, path), SimilarityRecorder(model).plot):
        with pytest.raises(MissingExtraError, match=r"shapeshift\[plot\]"):
            draw(tmp_path / "picture.png")


# --- Folding ---


def alternate(model: nn.Module) -> None:
    """Let each block mix as the first one of its stage does, with other lengths and signs."""
    first = tuple(f"{stage.steps[0]}." for stage in find_rows(model))
    for group in require_shared(model).generators():
        matrix = group.coefficients.data.view(len(group.weights), -1)
        period = sum(weight.name.startswith(first) for weight in group.weights)
        for layer in range(period, len(matrix)):
            matrix[layer] = matrix[layer - period] * (-1.5 if layer % 3 else 2)


FOLDED: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "wide resnet": (lambda: WideResNet(28, 0.5), images),
    "resnet": (lambda: ResNet(26, 0.5), images),
    "timm resnet": (lambda: timm.create_model("resnet14t", layers=(1, 4, 1, 1)), lambda: images(32)),
    "torch encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 4, enable_nested_tensor=False
        ),
        lambda: (torch.randn(2, 5, 16),),
    ),
    "timm vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=4, num_heads=2),
        lambda: images(32),
    ),
    "bert": (
        bert,
        lambda: (torch.randint(50, (2, 6)),),
    ),
}


def folded(name: str) -> tuple[nn.Module, tuple[Any, ...], Folding]:
    """Make a model of which each block is the first of its stage once more, and fold it."""
    torch.manual_seed(0)
    build, inputs = FOLDED[name]
    model = soft_share(build(), 2)
    alternate(model)
    return model, inputs(), fold(model, 0.999)


@pytest.mark.parametrize("name", FOLDED)
def test_the_recurrent_form_runs_each_block_again(name: str) -> None:
    model, x, folding = folded(name)
    assert any(schedule.loops for schedule in folding.schedules)
    assert not any(schedule.notes for schedule in folding.schedules)
    for schedule in folding.schedules:
        assert set(schedule.blocks) == {0}
        assert schedule.loops == ({(0, 0): len(schedule.steps) - 1})
        block, *others = (folding.module.get_submodule(step) for step in schedule.steps)
        assert not isinstance(block, Repeat)
        assert all(isinstance(other, Repeat) for other in others)
    for mode in (False, True):
        model.train(mode)
        folding.module.train(mode)
        assert_close(tensors(folding.module(*x)), tensors(model(*x)), "identical")
    assert folding.after == shapeshift.count_parameters(model) == shapeshift.count_parameters(folding.module)
    assert folding.after < folding.before
    # Both use the same tensors, so they stay equal in training.
    gradients(model, x)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.01 * parameter.grad
    assert_close(tensors(folding.module(*x)), tensors(model(*x)), "identical")
    assert set(folding.module.state_dict()) <= set(model.state_dict())


@pytest.mark.parametrize("name", ["wide resnet", "torch encoder"])
def test_the_recurrent_form_has_the_models_gradients(name: str) -> None:
    model, x, folding = folded(name)
    expected = gradients(model, x)
    found = gradients(folding.module, x)
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        assert_close(found[key], gradient, "reordered gradient")


@pytest.mark.parametrize("name", FOLDED)
def test_layers_that_differ_by_a_factor_are_folded_without_a_change(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = FOLDED[name]
    model, x = soft_share(build(), 2), inputs()
    alternate(model)
    before = [generated(model, name) for names in members(model).values() for name in names]
    folding = fold(model, 0.999)
    after = [generated(model, name) for names in members(model).values() for name in names]
    assert_close(after, before, "reordered")
    assert all(group.change < 1e-5 for group in folding.groups)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(model(*x)))


def generated(model: nn.Module, name: str) -> Tensor:
    group, index = next(
        (group, index)
        for group in require_shared(model).generators()
        for index, weight in enumerate(group.weights)
        if weight.name == name
    )
    return group.generate([index])[0].detach().clone()


def test_tied_coefficients_stay_tied_in_training_and_in_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = soft_share(WideResNet(28, 0.5), 2), images()
    name = "stage1_8x8x3x3"
    matrix = coefficients(model, name)
    matrix[2], matrix[5] = matrix[0] * 1.1, -matrix[1]
    before = shapeshift.count_parameters(model)
    folding = fold(model, 0.999)
    first = folding.groups[0]
    assert first.layers == tuple(
        tuple(f"blocks.{layer}.weight" for layer in layers)
        for layers in (("1.conv1", "2.conv1"), ("1.conv2", "3.conv2"), ("2.conv2",), ("3.conv1",))
    )
    assert not first.rolled_back
    assert first.before - first.after == 2 * 2
    assert folding.before - folding.after == sum(group.before - group.after for group in folding.groups)
    assert (folding.before, folding.after) == (before, shapeshift.count_parameters(model))
    optimizer = torch.optim.SGD(shapeshift.parameter_groups(model, 1e-4), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(*x).square().mean().backward()
        optimizer.step()
    similar = similarity(model)[name]
    assert_close(similar[[0, 1], [2, 5]], torch.ones(2), "reordered")
    assert similar[0, 1] < 0.999
    tied = require_shared(model)[name].generate(range(6))
    assert_close(
        F.cosine_similarity(tied[1].flatten(), tied[5].flatten(), dim=0).detach(), torch.tensor(-1.0), "reordered"
    )

    shapeshift.save(model, tmp_path)
    loaded = shapeshift.load(tmp_path, WideResNet(28, 0.5))
    assert shapeshift.count_parameters(loaded) == folding.after
    assert_close(loaded.eval()(*x), model.eval()(*x), "identical")
    assert require_shared(loaded).plan == require_shared(model).plan
    assert shapeshift.load(tmp_path, model) is model
    with pytest.raises(CheckpointError, match="another plan"):
        shapeshift.load(tmp_path, soft_share(WideResNet(28, 0.5), 2))
    found = shapeshift.report(loaded)
    assert found.parameters == folding.after
    assert found.groups[0].coefficients == 4 * 2
    assert found.groups[0].dense == 6 * 8 * 8 * 9
    expected = model(*x)
    assert shapeshift.materialize(model)(*x).equal(expected)
    assert shapeshift.count_parameters(model) == shapeshift.count_parameters(WideResNet(28, 0.5))


def test_a_group_with_fewer_layers_than_templates_gets_plain_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = soft_share(WideResNet(28, 0.5), 3), images()
    matrix = coefficients(model, "stage2_16x16x3x3")
    matrix[2], matrix[3], matrix[4], matrix[5] = matrix[0], 3 * matrix[1], -matrix[0], matrix[1]
    folding = fold(model, 0.999)
    assert [group.rolled_back for group in folding.groups] == [False, True, False]
    record, group = folding.groups[1], require_shared(model)["stage2_16x16x3x3"]
    assert [name for name, _ in group.named_parameters()] == ["store.0"]
    assert record.after == 2 * 16 * 16 * 9
    assert record.before - record.after == folding.before - folding.after == 16 * 16 * 9 + 6 * 3
    assert str(folding).count("plain weights") == 1
    expected = model.eval()(*x)
    shapeshift.save(model, tmp_path)
    assert_close(shapeshift.load(tmp_path, WideResNet(28, 0.5)).eval()(*x), expected, "identical")
    assert_close(folding.module.eval()(*x), expected, "identical")
    # The rest can be folded again.
    again = fold(model, 0.5)
    assert {ties.group for ties in again.groups} == {"stage1_8x8x3x3", "stage3_32x32x3x3"}
    assert again.after < folding.after


def test_nothing_is_tied_that_is_not_similar() -> None:
    torch.manual_seed(0)
    model, x = soft_share(wrn()), images()
    expected = model.eval()(*x)
    kept = dict(require_shared(model).items())
    folding = fold(model)
    assert folding.before == folding.after
    assert not any(schedule.loops or schedule.notes for schedule in folding.schedules)
    assert dict(require_shared(model).items()) == kept
    assert model(*x).equal(expected)
    assert folding.module.eval()(*x).equal(expected)


@pytest.mark.parametrize(
    ("angles", "threshold", "expected"),
    [
        ([0, 9, 19, 28], 0.98, [[0, 1], [2, 3]]),  # a chain of neighbours is no set
        ([0, 180, 90, 275], 0.99, [[0, 1], [2, 3]]),  # up to the sign
        ([0, 12, 8], 0.97, [[0, 1, 2]]),
        ([0, 20, 11], 0.97, [[0], [1, 2]]),  # the closest two first
        ([0, 45], 1.0, [[0], [1]]),
    ],
)
def test_sets_of_nearly_equal_layers(angles: list[float], threshold: float, expected: list[list[int]]) -> None:
    radians = torch.tensor(angles, dtype=torch.float64).deg2rad()
    rows = torch.stack([radians.cos(), radians.sin()], dim=1) * torch.linspace(0.1, 3, len(angles))[:, None]
    assert nearly_equal(rows, threshold) == expected


def test_what_differs_from_run_to_run_and_what_stands_in_the_way_is_said() -> None:
    torch.manual_seed(0)
    options = {"img_size": 32, "embed_dim": 16, "depth": 4, "num_heads": 2, "drop_path_rate": 0.2}
    model = soft_share(timm.create_model("vit_tiny_patch16_224", **options), 2)
    alternate(model)
    folding = fold(model, 0.999)
    (schedule,) = folding.schedules
    # The first block of the four drops no path, and has an identity in its place.
    assert schedule.blocks == (0, 1, 1, 1)
    assert schedule.settings == ("drop_path1.drop_prob", "drop_path2.drop_prob")
    assert {name.split(".")[0] for name in schedule.own} == {"norm1", "norm2", "attn", "mlp"}
    assert schedule.notes == (
        "blocks.1 has the weights of blocks.0, but has DropPath as drop_path1, not Identity: tied only",
    )
    assert schedule.notes[0] in str(folding)
    x = images(32)
    for mode in (False, True):
        model.train(mode)
        folding.module.train(mode)
        outputs = []
        for module in (model, folding.module):
            torch.manual_seed(1)
            outputs.append(module(*x))
        assert_close(outputs[1], outputs[0], "identical")
    assert [block.drop_path1.drop_prob for block in model.blocks[1:]] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
    block, repeat = folding.module.blocks[1], folding.module.blocks[3]
    assert repeat.norm1.weight is model.blocks[3].norm1.weight
    assert (repeat.block, block.drop_path1.drop_prob) == ("blocks.1", pytest.approx(0.2 / 3))
    assert "blocks.1 again" in repr(repeat)
    assert not hasattr(repeat, "norm3")
    repeat.norm3 = nn.LayerNorm(16)
    assert repeat.norm3 in folding.module.modules()


def test_blocks_that_share_in_part_are_no_loop() -> None:
    torch.manual_seed(0)
    model = soft_share(WideResNet(28, 0.5), 2)
    for name in members(model):
        matrix = coefficients(model, name)
        matrix[2] = matrix[0]
        matrix[3] = torch.tensor([-matrix[1, 1], matrix[1, 0]])
    folding = fold(model, 0.9999)
    for number, schedule in enumerate(folding.schedules):
        assert schedule.blocks == (0, 1, 2)
        assert schedule.notes == (
            f"tied with earlier blocks in some of their weights, not in all: blocks.{4 * number + 2}",
        )
        (first, _), (again, _), _ = schedule.weights
        assert first == again
    assert folding.module.eval()(*(x := images())).equal(model.eval()(*x))


def test_the_loops_of_a_schedule_are_counted_and_drawn() -> None:
    torch.manual_seed(0)
    model = soft_share(WideResNet(40, 0.5), 4)
    first, second, third = (coefficients(model, name) for name in members(model))
    first[2:6] = first[:2].repeat(2, 1)  # A A A B C
    second[4:8], second[8:] = second[:4], second[:2]  # A B A B A
    third[8:] = third[2:4]  # A B C D B
    folding = fold(model, 0.9999)
    assert [schedule.blocks for schedule in folding.schedules] == [(0, 0, 0, 3, 4), (0, 1, 0, 1, 0), (0, 1, 2, 3, 1)]
    assert [schedule.loops for schedule in folding.schedules] == [{(0, 0): 2}, {(1, 0): 2}, {(3, 1): 1}]
    described = json.loads(json.dumps(folding.as_dict()))
    assert described["schedules"][1]["loops"] == [{"from": 1, "to": 0, "times": 2}]
    assert "stage2 runs blocks.7 -> blocks.8 -> blocks.7" in str(folding)
    graph = folding.mermaid()
    assert graph.count("subgraph") == graph.count("\n  end") == 3
    assert (
        """
  subgraph s1["stage2: 5 steps, 2 blocks"]
    s1b0["blocks.7<br>weights 0 1"]
    s1b1["blocks.8<br>weights 2 3"]
    s1start(( )) --> s1b0
    s1b0 -->|2x| s1b1
    s1b1 -.->|2x| s1b0
    s1b0 --> s1end(( ))
  end
"""
        in graph
    )
    assert "    s0b0 -.->|2x| s0b0\n    s0b0 --> s0b3\n    s0b3 --> s0b4\n    s0b4 --> s0end(( ))\n" in graph
    assert "    s2b3 -.-> s2b1\n" in graph


def test_names_cannot_break_a_graph() -> None:
    steps = ('a "quoted" [name]', "b<br>`c`#1; end")
    schedule = Schedule("stage1", steps, (0, 1), ((0,), (1,)), (), (), ())
    assert mermaid([schedule]).splitlines()[2:4] == [
        '    s0b0["a #34;quoted#34; #91;name#93;<br>weights 0"]',
        '    s0b1["b#60;br#62;#96;c#96;#35;1#59; end<br>weights 1"]',
    ]
    assert mermaid([]) == "flowchart LR"


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold must be above 0 and at most 1"):
        fold(soft_share(wrn(), 2), threshold)


def test_what_cannot_be_folded_is_refused_and_the_model_unchanged() -> None:
    model = soft_share(wrn(), 2)
    plan = require_shared(model).plan
    coefficients(model, "stage3_32x32x3x3")[1] = float("nan")
    with pytest.raises(ModelError, match="coefficients of stage3_32x32x3x3 are not finite"):
        fold(model)
    assert require_shared(model).plan is plan
    with torch.device("meta"):
        on_meta = soft_share(wrn(), 2)
    with pytest.raises(ModelError, match="stage1_8x8x3x3 is on the meta device"):
        fold(on_meta)
    plain = mlp(16, 3)
    budget = shapeshift.count_parameters(plain) - 2 * 16 * 16
    averaged = shapeshift.compress(plain, budget, include=["0", "2", "4"], mapping="shape", combine="avg")
    assert_close(similarity(averaged)["16x16"], torch.ones(3, 3), "reordered")
    with pytest.raises(ModelError, match='combine="wavg"'):
        fold(averaged)


def test_a_frozen_store_stays_frozen() -> None:
    model = soft_share(wrn(), 2)
    alternate(model)
    for group in require_shared(model).generators():
        group.store.requires_grad_(False)
    fold(model, 0.999)
    assert not any(piece.requires_grad for group in require_shared(model).generators() for piece in group.store)


def test_the_recurrent_form_survives_copies_and_compilation() -> None:
    model, x, folding = folded("torch encoder")
    model.eval()
    folding.module.eval()
    expected = tensors(model(*x))
    copied = copy.deepcopy(folding.module)
    for module in (copied, pickle.loads(pickle.dumps(folding.module)), torch.compile(folding.module, backend="eager")):
        assert_close(tensors(module(*x)), expected, "identical")
    for group in require_shared(model).generators():
        group.store[0].data.zero_()
    assert_close(tensors(copied(*x)), expected, "identical")


@pytest.mark.parametrize("name", ["wide resnet", "torch encoder"])
def test_the_recurrent_form_is_a_compressed_model_too(name: str, tmp_path: Path) -> None:
    model, x, folding = folded(name)
    expected = tensors(model.eval()(*x))
    shapeshift.save(folding.module.eval(), tmp_path)
    torch.manual_seed(0)
    fresh = FOLDED[name][0]()
    assert_close(tensors(shapeshift.load(tmp_path, fresh).eval()(*x)), expected, "identical")
    again = fold(folding.module, 0.999)
    assert (again.before, again.after) == (folding.after, folding.after)
    assert_close(tensors(again.module.eval()(*x)), expected, "reordered")
    module = folding.module.double().eval()
    assert {value.dtype for value in tensors(module(*(part.double() for part in x)))} == {torch.float64}
    plain = shapeshift.materialize(module.float())
    assert not shapeshift.is_compressed(plain)
    assert_close(tensors(plain(*x)), expected, "reordered")


def test_checkpointing_within_blocks_that_run_again() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(8), nn.Linear(8, 8)

        def branch(self, x: Tensor) -> Tensor:
            return x + self.inner(torch.tanh(self.norm(x)))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.branch, x, use_reentrant=False)

    torch.manual_seed(0)
    model = soft_share(nn.Sequential(*(Block() for _ in range(3))), 2)
    with torch.no_grad():
        for name in members(model):
            coefficients(model, name).copy_(torch.tensor([[1.0, 0.5], [2.0, 1.0], [-1.0, -0.5]]))
        for block in model:
            block.norm.weight.normal_()
    folding, x = fold(model), (torch.randn(4, 8),)
    assert isinstance(folding.module[2], Repeat)
    assert_close(gradients(folding.module, x), gradients(model, x), "reordered gradient")


def test_layers_alone_are_folded_without_blocks() -> None:
    torch.manual_seed(0)
    model = soft_share(nn.Sequential(*(nn.Linear(8, 8) for _ in range(6))), 2)
    alternate(model)
    folding, x = fold(model, 0.999), torch.randn(2, 8)
    assert folding.after < folding.before
    expected = model(x)
    assert_close(folding.module(x), expected, "identical")
    fold(folding.module, 0.5)
    assert torch.isfinite(folding.module(x)).all()


def test_half_precision_layers_are_folded() -> None:
    torch.manual_seed(0)
    model = soft_share(wrn().bfloat16(), 2)
    alternate(model)
    folding = fold(model, 0.99)
    assert [schedule.blocks for schedule in folding.schedules] == [(0, 0)] * 3
    x = images()[0].bfloat16()
    assert folding.module.eval()(x).equal(model.eval()(x))


def test_settings_that_only_some_runs_have() -> None:
    torch.manual_seed(0)
    model = soft_share(wrn(), 2)
    model.get_submodule("blocks.1").hint = 3
    model.get_submodule("blocks.4").conv1.hint = [torch.zeros(2), "x"]
    model.get_submodule("blocks.5").conv1.hint = [torch.ones(2), "x"]
    alternate(model)
    folding = fold(model, 0.999)
    assert [schedule.settings for schedule in folding.schedules] == [("hint",), ("conv1.hint",), ()]
    x = images()
    module = copy.deepcopy(folding.module).eval()
    assert module(*x).equal(model.eval()(*x))
    assert module.get_submodule("blocks.1").hint == 3


def test_coefficients_of_any_config_can_start_orthogonally() -> None:
    with pytest.raises(ConfigError, match='coefficients must be "geometric" or "orthogonal", not \'random\''):
        shapeshift.Config(coefficients="random")
    config = shapeshift.Config(coefficients="orthogonal", max_templates=2, seed=0, include=("0", "2", "4"))
    assert shapeshift.Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    model = shapeshift.compress(mlp(16, 3), 2 * 16 * 16 + 6 + 3 * 16 + 16 * 4 + 4, config)
    matrix = coefficients(model, "all")
    assert matrix.shape == (3, 2)
    assert_close(matrix.T @ matrix, torch.eye(2), "reordered")


def test_the_benchmark_trains_folds_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folding_benchmark, "DEPTH", 22)
    monkeypatch.setattr(folding_benchmark, "WIDTH", 0.25)
    output = tmp_path / "found" / "folding.json"
    threads = torch.get_num_threads()
    folding_benchmark.main(["--seeds", "1", "--epochs", "1", "--weight", "30", "--output", str(output)])
    torch.set_num_threads(threads)
    content = json.loads(output.read_text())
    (own,), (shared,), (regularised,) = content["runs"].values()
    assert own["parameters"] > shared["parameters"] == regularised["parameters"]
    assert sum(regularised["similarity"].values()) > sum(shared["similarity"].values())
    assert regularised["folding"]["before"] == regularised["parameters"] >= regularised["folding"]["after"]
    assert all(0 <= run[name] <= 100 for run in (shared, regularised) for name in ("folded error", "tuned error"))
    assert output.with_suffix(".md").read_text() in capsys.readouterr().out
    assert {path.name for path in output.parent.iterdir()} == {
        "folding.json",
        "folding.md",
        "folding_evolution.png",
        "folding_graph.md",
        "folding_similarity.png",
    }
    assert (output.parent / "folding_graph.md").read_text().startswith("```mermaid\nflowchart LR\n")


def test_a_model_that_cannot_be_copied_is_left_unfolded() -> None:
    model = soft_share(WideResNet(16, 0.5, in_channels=1), 2)
    model.generator = (value for value in range(3))  # cannot be copied
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TypeError, match="generator"):
        fold(model, 0.01)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
