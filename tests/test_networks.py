"""The networks of the papers, and the reduced baseline."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shapeshift
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import WideResNet, thin_wide_resnet


@pytest.mark.parametrize(("depth", "width", "millions"), [(28, 10, 36.5), (16, 4, 2.7), (40, 2, 2.2), (28, 6, 13.1)])
def test_wide_resnets_have_the_parameters_of_the_paper(depth: int, width: int, millions: float) -> None:
    with torch.device("meta"):
        network = WideResNet(depth, width)
    assert shapeshift.count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_wide_resnet_classifies_images_of_any_side() -> None:
    network = WideResNet(10, 0.5, num_classes=7, in_channels=1, dropout=0.3)
    for side in (8, 32):
        assert network(torch.randn(2, 1, side, side)).shape == (2, 7)


@pytest.mark.parametrize("depth", [4, 15, 17])
def test_a_depth_that_cannot_be_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6n \\+ 4.*not {depth}"):
        WideResNet(depth, 1)


@settings(max_examples=10, deadline=None)
@given(budget=st.integers(2_000, 200_000))
def test_the_reduced_baseline_is_the_widest_that_fits(budget: int) -> None:
    build, steps = partial(thin_wide_resnet, depth=16, in_channels=1), 64
    size = shapeshift.count_parameters(reduce_width(build, budget, steps))
    with torch.device("meta"):
        sizes = [shapeshift.count_parameters(build(step / steps)) for step in range(1, steps + 1)]
    assert size == max(found for found in sizes if found <= budget)


def test_a_budget_below_the_thinnest_network_is_refused() -> None:
    with pytest.raises(shapeshift.BudgetError, match="no width meets a budget of 10 parameters"):
        reduce_width(partial(thin_wide_resnet, depth=16), 10)
