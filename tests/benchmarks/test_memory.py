"""The measurement of memory."""

from __future__ import annotations

import json

import torch
from torch import nn

from benchmarks import memory
from benchmarks.results import RESULTS


def test_a_forward_saves_what_its_layers_need() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), torch.randn(5, 1, 8)
    # The input, the output of tanh, which the second layer reads, and the output, whose square is the loss.
    assert memory._saved_bytes(model, x) == 4 * 5 * (8 + 16 + 4)


def test_the_bound_counts_activations_budget_and_the_largest_weight() -> None:
    assert memory.bound(1000, {"budget": 100, "largest": 50}) == 1.05 * (1000 + 1600 + 400)


def test_the_committed_tables_come_from_the_committed_numbers() -> None:
    content = json.loads((RESULTS / "memory_cpu.json").read_text())
    assert (RESULTS / "memory_cpu.md").read_text() == memory.render(content)
    assert any(key.startswith("recomputed:") for key in content["results"])
