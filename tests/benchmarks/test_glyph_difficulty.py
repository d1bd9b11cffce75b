"""The benchmark that measures the difficulty of glyphs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import glyph_difficulty
from benchmarks.results import RESULTS


def test_the_difficulty_of_glyphs_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "glyphs.json"
    sizes = ["--train", "64", "--test", "20", "--epochs", "1"]
    glyph_difficulty.main([*sizes, "--data-dir", str(tmp_path), "--output", str(output)])
    content = json.loads(output.read_text())
    assert 0 < content["test_error"] <= 100
    line = output.with_suffix(".md").read_text()
    assert line in capsys.readouterr().out
    assert f"{content['test_error']:.2f}% test error" in line
    assert "64 glyphs" in line


def test_the_committed_difficulty_is_what_it_should_be() -> None:
    content = json.loads((RESULTS / "glyph_difficulty.json").read_text())
    assert (content["train"], content["recipe"]["epochs"]) == (20_000, 20)
    assert 5 < content["test_error"] < 15
    assert (RESULTS / "glyph_difficulty.md").read_text() == glyph_difficulty.render(content)
