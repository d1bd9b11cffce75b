"""Soft sharing: the layers that share, the start of their weights, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import shapeshift
from shapeshift.errors import ConfigError, ModelError
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import (
    soft_share,
)
from shapeshift.surgery.roots import require_shared
from tests.foldable import bert, coefficients, images, members, wrn
from tests.models import mlp
from tests.tolerances import assert_close


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


def test_coefficients_of_any_config_can_start_orthogonally() -> None:
    with pytest.raises(ConfigError, match='coefficients must be "geometric" or "orthogonal", not \'random\''):
        shapeshift.Config(coefficients="random")
    config = shapeshift.Config(coefficients="orthogonal", max_templates=2, seed=0, include=("0", "2", "4"))
    assert shapeshift.Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    model = shapeshift.compress(mlp(16, 3), 2 * 16 * 16 + 6 + 3 * 16 + 16 * 4 + 4, config)
    matrix = coefficients(model, "all")
    assert matrix.shape == (3, 2)
    assert_close(matrix.T @ matrix, torch.eye(2), "reordered")
