"""The comparison of models that are built compressed with those that are compressed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.built_families import families, first_difference, main
from benchmarks.coverage.check import Attempt


def attempt(*models: nn.Module) -> Attempt:
    return Attempt("in turn", itertools.cycle(models).__next__, lambda model: model(torch.ones(2, 16)), 10**6)


def test_a_difference_is_found() -> None:
    def layers(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))

    one, other = layers(1), layers(1)
    nn.init.constant_(other[0].bias, 3)  # type: ignore[index]
    assert first_difference(attempt(one, other)) == "0.bias"
    assert first_difference(attempt(layers(1), layers(2))) == "the plan"
    assert first_difference(Attempt("anew", lambda: layers(1), lambda model: model, 10**6)) is None


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_each_family_has_a_model(library: str) -> None:
    found = {family: name for family, name, _ in itertools.islice(families(library), 5)}
    assert len(found) == 5


def test_what_was_checked_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "families.json"
    for most in (1, 1, 0):
        main(["--libraries", "timm", "--most", str(most), "--output", str(path)])
    results = json.loads(path.read_text())["families"]
    assert len(results) == 2
    assert all(result["difference"] is None for result in results.values())
    assert "2 of 2 families are equal" in capsys.readouterr().out
