"""The measurements of step time and memory."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import step_time
from benchmarks.baselines.paper_style import share_in_paper_style
from benchmarks.results import RESULTS
from benchmarks.workloads import WORKLOADS, Workload
from shapeshift.networks.wide_resnet import WideResNet


def test_the_papers_generator_has_the_budget_and_learns() -> None:
    model = share_in_paper_style(WideResNet(10, 0.5, in_channels=1), store_size=20_000)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert model.paper_store.numel() == 20_000
    assert model.paper_store.grad.any()
    assert model.stem.weight_coefficients.grad.any()


def test_step_time_measures_and_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    def images(batch_size: int) -> torch.Tensor:
        return torch.randn(batch_size, 1, 8, 8)

    tiny = Workload("tiny", partial(WideResNet, 10, 0.5, in_channels=1), images, WORKLOADS["wrn"].optimizer, 2, 2)
    monkeypatch.setattr(step_time, "WORKLOADS", {"tiny": tiny})
    monkeypatch.setattr(step_time, "LARGE_MODELS", ("test_resnet",))
    arguments: Any = type("Arguments", (), {"device": "cpu", "steps": 1, "budget": "2x"})
    results = {
        f"{name}:{row}": [step_time._MEASURES[name](row, arguments)]
        for name, row in (("steps", "tiny"), ("paper", "tiny"), ("dense", "tiny"), ("shared", "tiny"))
    }
    results["setup:test_resnet"] = [step_time.measure_setup("test_resnet", arguments)]
    machine = step_time.describe("cpu")
    table = step_time.render({"results": results, "machine": machine, "budget": "2x", "steps": 1})
    row = next(line for line in table.splitlines() if line.startswith("| tiny, batch 2"))
    ratio = results["steps:tiny"][0]["shared"] / results["steps:tiny"][0]["dense"]
    assert f"{ratio:.2f}" in row


def test_the_committed_step_times_come_from_the_committed_numbers() -> None:
    content = json.loads((RESULTS / "step_time_cpu.json").read_text())
    assert (RESULTS / "step_time_cpu.md").read_text() == step_time.render(content)
