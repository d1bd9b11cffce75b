"""The benchmark that times the ranks of feature maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.feature_ranks import main as feature_ranks_benchmark


def test_the_benchmark_finds_the_same_ranks_and_times_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "ranks.json"
    options = ["--images", "1", "--rounds", "1", "--networks", "DenseNet-40"]
    feature_ranks_benchmark([*options, "--output", str(output)])
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["maps"], row["different"]) == (912, 0)
    assert min(row["batched"], row["loop"]) > 0
    assert output.with_suffix(".md").read_text() in capsys.readouterr().out
