"""The benchmarks, at sizes that take seconds."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import shapeshift
from benchmarks import budget_sweep, starting_values, step_time, sweep
from benchmarks.paper_style import share_in_paper_style
from benchmarks.tables import RESULTS, markdown_table
from benchmarks.workloads import WORKLOADS, Workload
from shapeshift.integrations.training import Recipe
from shapeshift.networks.wide_resnet import WideResNet


def test_a_table_is_markdown() -> None:
    assert markdown_table(["a", "long"], [["1", "2"]]).splitlines() == ["| a | long |", "| - | ---- |", "| 1 | 2    |"]


def test_the_papers_generator_has_the_budget_and_learns() -> None:
    model = share_in_paper_style(WideResNet(10, 0.5, in_channels=1), store_size=20_000)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert model.paper_store.numel() == 20_000
    assert model.paper_store.grad.any()
    assert model.stem.weight_coefficients.grad.any()


@pytest.mark.parametrize("rows", [budget_sweep.rows(), starting_values.rows()], ids=["budgets", "starting values"])
def test_every_row_of_a_sweep_can_be_built(rows: list[sweep.Row]) -> None:
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        model = row.build()
        if row.method == "dense":
            continue
        dense = shapeshift.count_parameters(sweep.NETWORKS[row.network]())
        allowed = shapeshift.budget.parse_budget(row.budget, dense)
        assert 0.9 * allowed < shapeshift.count_parameters(model) <= allowed


def test_a_sweep_resumes_and_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = partial(WideResNet, 10, 0.25, in_channels=1)
    rows = [sweep.Row("WRN-16-1", "dense", "", build, Recipe(epochs=1))]
    monkeypatch.setattr(
        sys, "argv", ["sweep", "--seeds", "1", "--output", str(tmp_path / "it.json"), "--processes", "1"]
    )
    sweep.run("it", "a test", rows)
    content = json.loads((tmp_path / "it.json").read_text())
    (result,) = content["runs"].values()
    assert 0 < result["error"] < 100
    content["runs"]["WRN-16-1/dense//0"]["error"] = 12.34
    (tmp_path / "it.json").write_text(json.dumps(content))
    sweep.run("it", "a test", rows)
    assert "12.34 ± 0.00" in capsys.readouterr().out
    assert (tmp_path / "it.png").exists()


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


@pytest.mark.parametrize("name", ["budget_sweep", "starting_values"])
def test_committed_tables_come_from_the_committed_numbers(name: str) -> None:
    content = json.loads((RESULTS / f"{name}.json").read_text())
    rows = {"budget_sweep": budget_sweep, "starting_values": starting_values}[name].rows()
    assert content["config"] == shapeshift.Config().to_dict()
    assert (RESULTS / f"{name}.md").read_text() == sweep.render(name, rows, content["runs"])


def test_the_committed_step_times_come_from_the_committed_numbers() -> None:
    content = json.loads((RESULTS / "step_time_cpu.json").read_text())
    assert (RESULTS / "step_time_cpu.md").read_text() == step_time.render(content)
