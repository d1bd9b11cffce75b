"""Layers with nearly equal coefficients, and their ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage

import shapeshift
from shapeshift.errors import CheckpointError
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import (
    fold,
    layer_similarity,
    similarity,
    soft_share,
)
from shapeshift.recurrence.ties import nearly_equal
from shapeshift.surgery.roots import require_shared
from tests.foldable import coefficients, images, wrn
from tests.tolerances import assert_close


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
    ours, theirs = require_shared(loaded).plan, require_shared(model).plan
    assert [group.layout for group in ours.groups] == [group.layout for group in theirs.groups]
    assert ours.config == theirs.config
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


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("layers", "templates"), [(2, 2), (9, 2), (12, 3), (40, 2), (40, 5)])
def test_sets_are_those_of_complete_linkage_in_scipy(layers: int, templates: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(layers)
    rows = torch.randn(layers, templates, generator=generator, dtype=torch.float64)
    rows[-1] = -2 * rows[0]  # the same direction, up to the sign and the length
    distances = 1 - layer_similarity(rows).numpy()
    condensed = distances[np.triu_indices(layers, 1)].clip(0)
    labels = fcluster(linkage(condensed, "complete"), 1 - threshold, "distance")
    expected = sorted(np.flatnonzero(labels == label).tolist() for label in set(labels))
    found = nearly_equal(rows, threshold)
    assert found == expected
    assert any({0, layers - 1} <= set(members) for members in found)
