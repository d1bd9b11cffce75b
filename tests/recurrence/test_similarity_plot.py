"""Pictures of similarities, and their course over epochs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from shapeshift.errors import MissingExtraError
from shapeshift.recurrence import (
    SimilarityRecorder,
    plot_similarity,
    similarity,
    soft_share,
)
from tests.foldable import coefficients, wrn
from tests.tolerances import assert_close


def test_a_recorder_keeps_the_matrices_of_each_epoch(tmp_path: Path) -> None:
    model = soft_share(wrn(), 2)
    recorder = SimilarityRecorder(model)
    start = similarity(model)
    for _ in range(7):
        coefficients(model, "stage1_8x8x3x3")[0] += 1
        recorder.record()
    assert len(recorder.epochs) == 8
    assert_close(recorder.epochs[0], start, "identical")
    assert_close(recorder.epochs[-1], similarity(model), "identical")
    assert not torch.equal(recorder.epochs[1]["stage1_8x8x3x3"], start["stage1_8x8x3x3"])
    kept = json.loads(json.dumps(recorder.as_dict()))
    assert_close(torch.tensor(kept["stage1_8x8x3x3"][3]), recorder.epochs[3]["stage1_8x8x3x3"], "identical")
    recorder.plot(tmp_path / "evolution.png", columns=3)
    plot_similarity(model, tmp_path / "similarity.svg")
    assert (tmp_path / "evolution.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "similarity.svg").read_text()


def test_pictures_name_the_extra_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = soft_share(wrn(), 2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda path: plot_similarity(model, path), SimilarityRecorder(model).plot):
        with pytest.raises(MissingExtraError, match=r"shapeshift\[plot\]"):
            draw(tmp_path / "picture.png")
