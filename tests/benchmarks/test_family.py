"""The benchmark of families."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

import shapeshift
from benchmarks.experiments.families import EnsembleNetwork
from benchmarks.experiments.networks import Training, WideNetwork
from benchmarks.tables.families import FAMILY
from benchmarks.tables.families import TABLE as FAMILIES
from benchmarks.task import Task
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe


def test_the_rows_of_the_benchmark_meet_their_budgets() -> None:
    data = Images(torch.randn(16, 1, 8, 8), torch.arange(16) % 10, num_classes=10)
    training = Training(data, Recipe(epochs=1, batch_size=16), seed=0, device="cpu")
    whole = shapeshift.count_parameters(FAMILY.build(data))
    sizes = {}
    for row in FAMILIES.rows:
        json.dumps(row.settings)
        model = row.build(row.network, row.budget, training, **row.options)
        sizes[row.key] = shapeshift.count_parameters(model)
        allowed = whole * int(row.budget.rstrip("%")) // 100 if row.budget else whole
        assert 0.97 * allowed < sizes[row.key] <= allowed, row.key
    assert len(sizes) == 7


def test_a_run_of_the_benchmark_measures_the_average_of_all_members() -> None:
    task = Task("digits", Recipe(epochs=2, batch_size=20, learning_rate=0.05), {"train": 300})
    row = next(row for row in FAMILIES.rows if row.method == "separate networks")
    small = replace(row, network=EnsembleNetwork((WideNetwork(10, 0.5), WideNetwork(10, 0.25))))
    found = FAMILIES.experiment.run(small, task, seed=0)
    assert set(found) == {"parameters", *(metric.name for metric in FAMILIES.experiment.metrics)}
    assert found["error"] < 60
    assert 0 < found["ece"] < 100
    assert 0 < found["disagreement"] < 100
    one = FAMILIES.experiment.run(replace(small, network=EnsembleNetwork((WideNetwork(10, 0.5),))), task, seed=0)
    assert one["disagreement"] == 0
    assert one["macs"] < found["macs"]
