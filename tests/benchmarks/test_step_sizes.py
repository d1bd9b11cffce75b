"""The measurement of step sizes."""

from __future__ import annotations

import json
from functools import partial

import pytest

from benchmarks import step_sizes
from benchmarks.results import RESULTS
from shapeshift.networks.wide_resnet import WideResNet


def test_a_store_as_large_as_the_weights_takes_the_steps_of_the_dense_model() -> None:
    network = partial(WideResNet, 10, 0.25)
    assert step_sizes.measure("torch Adam", network, "100%", 1) == pytest.approx(1, abs=0.75)
    assert step_sizes.measure("SGD, centralized", network, "25%", 1) == 0


def test_the_committed_step_sizes_come_from_the_committed_numbers() -> None:
    content = json.loads((RESULTS / "step_sizes.json").read_text())
    assert (RESULTS / "step_sizes.md").read_text() == step_sizes.render(content)
