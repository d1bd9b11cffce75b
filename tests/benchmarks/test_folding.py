"""The benchmark that trains, folds and draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import folding as folding_benchmark


def test_the_benchmark_trains_folds_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folding_benchmark, "DEPTH", 22)
    monkeypatch.setattr(folding_benchmark, "WIDTH", 0.25)
    output = tmp_path / "found" / "folding.json"
    threads = torch.get_num_threads()
    folding_benchmark.main(["--seeds", "1", "--epochs", "1", "--weight", "30", "--output", str(output)])
    torch.set_num_threads(threads)
    content = json.loads(output.read_text())
    (own,), (shared,), (regularised,) = content["runs"].values()
    assert own["parameters"] > shared["parameters"] == regularised["parameters"]
    assert sum(regularised["similarity"].values()) > sum(shared["similarity"].values())
    assert regularised["folding"]["before"] == regularised["parameters"] >= regularised["folding"]["after"]
    assert all(0 <= run[name] <= 100 for run in (shared, regularised) for name in ("folded error", "tuned error"))
    assert output.with_suffix(".md").read_text() in capsys.readouterr().out
    assert {path.name for path in output.parent.iterdir()} == {
        "folding.json",
        "folding.md",
        "folding_evolution.png",
        "folding_graph.md",
        "folding_similarity.png",
    }
