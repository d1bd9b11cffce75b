"""The starting values of generated weights: their deviations, zeros, and where they are drawn."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift.compression import plan_compression
from shapeshift.generators import GENERATORS
from shapeshift.surgery.roots import require_shared
from tests.models import Residual, gradients, mlp
from tests.tolerances import assert_close


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

    @pytest.mark.parametrize("budget", [2.0, 4.0, 8.0])
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
