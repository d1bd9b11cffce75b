"""Soft sharing against golden numbers: convolutions of shared weights, and similarity matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import shapeshift
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.layout import TemplateLayout
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.recurrence import (
    layer_similarity,
)
from shapeshift.weights import Weight
from tests.golden import Arrays, cases
from tests.tolerances import assert_close


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


@pytest.mark.parametrize("case", cases("soft_share", "lsm", "num_lsm"), ids=lambda case: str(case["coeffs"].shape))
def test_golden_similarity_matrices(case: Arrays) -> None:
    found = layer_similarity(torch.from_numpy(case["coeffs"]))
    assert_close(found, torch.from_numpy(case["matrix"]), "golden")
