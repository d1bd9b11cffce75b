"""The bytes that training with several machines sends."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from benchmarks import traffic
from benchmarks.machine import describe
from benchmarks.results import RESULTS
from benchmarks.workloads import WORKLOADS, Workload
from shapeshift.networks.wide_resnet import WideResNet
from tests.processes import needs_gloo

FLOAT = 4  # bytes


def images(batch_size: int) -> torch.Tensor:
    return torch.randn(batch_size, 1, 8, 8)


TINY = Workload("tiny", partial(WideResNet, 10, 1, in_channels=1), images, WORKLOADS["wrn"].optimizer, 2, 2)


@needs_gloo
def test_a_step_sends_four_bytes_for_each_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "WORKLOADS", {"tiny": TINY})
    found = traffic.measure(TINY)
    dense, quarter = (found[budget]["parameters"] for budget in ("", "25%"))
    assert quarter == dense // 4
    check(found)
    content = {"machine": describe("cpu"), "processes": 2, "link_bits_per_second": 100e6}
    table = traffic.render({**content, "results": {f"tiny:{budget}": each for budget, each in found.items()}})
    assert f"| {quarter:,} " in table


def check(found: dict[str, dict[str, int]]) -> None:
    """Check that a step sends the gradients of the parameters alone, and a round no more than these and a constant."""
    for budget, each in found.items():
        assert each["all_reduced"] == [FLOAT * each["parameters"]] * traffic.STEPS, budget
        assert each["sent"] - each["buffers"] == FLOAT * each["parameters"], budget
    # The dense model's running averages, and a gain for each weight.
    gains = {each["buffers"] - found[""]["buffers"] for budget, each in found.items() if budget}
    assert len(gains) == 1
    assert 0 < gains.pop() < FLOAT * 500


def test_the_committed_traffic_is_four_bytes_for_each_parameter_of_the_budget() -> None:
    content = json.loads((RESULTS / "traffic.json").read_text())
    assert (RESULTS / "traffic.md").read_text() == traffic.render(content)
    for row in traffic.ROWS:
        found = {budget: content["results"][f"{row}:{budget}"] for budget in traffic.BUDGETS}
        check(found)
        for budget, each in found.items():
            share = float(budget.rstrip("%") or 100) / 100
            assert each["parameters"] == int(share * found[""]["parameters"]), budget
