"""Damaged checkpoints are refused: a part of what the benchmark tries."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import shapeshift
from benchmarks import damaged_checkpoints
from benchmarks.damaged_checkpoints import ACCIDENTS, DamageError, network, run, try_one, write_checkpoints


def test_damaged_checkpoints_are_refused() -> None:
    results = run(80, seed=1)
    assert {damage.__name__.strip("_") for damage in ACCIDENTS} < set(results)
    counts = {outcome: sum(found[outcome] for found in results.values()) for outcome in damaged_checkpoints.OUTCOMES}
    assert sum(counts.values()) == 80
    assert counts["refused"] > 50


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda model: (_ for _ in ()).throw(ZeroDivisionError("crash")), "ZeroDivisionError: crash"),
        (lambda model: torch.nn.init.zeros_(model.get_parameter("stem.weight")), "loaded with other values"),
        (lambda model: torch.ones(2**25).sum(), "MiB"),
    ],
)
def test_a_fault_is_noticed(fault: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = write_checkpoints(tmp_path)
    state = shapeshift.load(first, network()).state_dict()
    assert callable(fault)
    monkeypatch.setattr(shapeshift, "load", lambda folder, model: fault(model))
    monkeypatch.setattr(damaged_checkpoints, "forgery", lambda folder, choose: "forgery")
    monkeypatch.setattr(random.Random, "random", lambda self: 0.9)  # an accident
    with pytest.raises(DamageError, match=message):
        try_one(first, others, random.Random(0), state)
