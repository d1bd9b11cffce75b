"""The comparison of Muon with AdamW: one short run, and the table."""

from __future__ import annotations

import json

import pytest

from benchmarks.machine import describe
from benchmarks.muon import MODELS, measure, render
from benchmarks.results import RESULTS


@pytest.mark.parametrize("optimizer", ["AdamW", "Muon"])
def test_a_short_run_learns_something(optimizer: str) -> None:
    found = measure("ring, 30%", optimizer, 0.01, seed=0, steps=10)
    assert 3 < found["bits"] < 7  # 8 bits per byte without training
    assert found["parameters"] < 120_000


def test_the_table_has_the_rate_that_is_best_on_the_first_seed() -> None:
    run = {"seconds": 3.0, "parameters": 1000}
    runs = {
        f"{model}/{optimizer}/{rate}/{seed}": {**run, "bits": 3.0 - rate * (seed == 0) + seed / 10}
        for model in list(MODELS)[:2]
        for optimizer in ("AdamW", "Muon")
        for rate in (0.001, 0.003)
        for seed in (0, 1, 2)
    }
    table = render({"machine": describe("cpu"), "steps": 300, "runs": runs})
    assert table.count("3.150 ± 0.071") == 4
    assert " 0.003 " in table
    assert "10 ms" in table


def test_the_committed_table_comes_from_the_committed_numbers() -> None:
    content = json.loads((RESULTS / "muon.json").read_text())
    assert (RESULTS / "muon.md").read_text() == render(content)
