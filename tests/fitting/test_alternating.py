"""Alternating least squares."""

from __future__ import annotations

import itertools
import math

import pytest

import shapeshift
from shapeshift.fitting import fit_group
from tests.fitted import FITTED, similar_layers


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
