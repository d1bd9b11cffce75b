"""Adapters of a small base model that nobody trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.experiments import adapters
from benchmarks.experiments.adapters import AdapterRecipe
from benchmarks.experiments.golf import Llama
from benchmarks.task import Task

SMALL = Llama(layers=2, width=32, hidden=64, blocks=2)
RECIPE = AdapterRecipe(steps=3, batch_size=2, context=16, base_steps=2, learning_rate=0.05)
TINY = Task("python_library", RECIPE, {"scored": 500, "validation": 0})


def leave_base_untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the base model be an untrained one."""

    def build(network: Llama, recipe: Any) -> nn.Module:
        torch.manual_seed(0)
        return network.build()

    monkeypatch.setattr(adapters, "_base_model", build)
