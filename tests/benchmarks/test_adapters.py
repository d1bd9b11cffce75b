"""The benchmark of adapters under budgets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

import shapeshift
from benchmarks.experiments import adapters
from benchmarks.experiments.adapters import (
    ALL,
    Adapters,
    adapted,
    base_model,
    compressed_lora,
    through_file,
    unadapted,
)
from benchmarks.experiments.golf import Llama, bits_per_byte, load
from benchmarks.experiments.networks import Training
from benchmarks.row import Row
from benchmarks.tables.adapters import BASE, NETWORK, RATES, ROWS, TABLE, WHOLE
from benchmarks.tables.adapters_rates import TABLE as RATES_TABLE
from shapeshift.budget import parse_budget
from shapeshift.errors import BudgetError
from tests.benchmarks.small_adapters import RECIPE, SMALL, TINY, leave_base_untrained

EXPERIMENT = Adapters()
TRAINING = Training(None, RECIPE, 0, "cpu")


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the base model be an untrained one."""
    leave_base_untrained(monkeypatch)


def test_a_run_measures_the_loaded_adapter() -> None:
    row = Row(SMALL, "compressed", "300", compressed_lora)
    run = EXPERIMENT.run(row, TINY, seed=0)
    assert json.loads(json.dumps(run)) == run
    assert {metric.name for metric in EXPERIMENT.metrics} < set(run)
    assert run["parameters"] == 300
    assert 1_200 < run["bytes"] < 10_000
    again = EXPERIMENT.run(row, TINY, seed=0)
    assert {**again, "seconds": 0} == {**run, "seconds": 0}
    other = EXPERIMENT.run(row, TINY, seed=1)
    assert other["bits"] != run["bits"]


def test_a_run_without_an_adapter_measures_the_base_model() -> None:
    run = EXPERIMENT.run(Row(SMALL, BASE, "", unadapted), TINY, seed=0)
    _, held_out = load(TINY)
    assert (run["parameters"], run["bytes"]) == (0, 0)
    assert run["bits"] == bits_per_byte(base_model(SMALL, RECIPE.of_base), held_out, 16)


def test_an_adapter_above_the_budget_is_an_error() -> None:
    row = Row(SMALL, "LoRA", "100", adapted, {"r": 2, "target_modules": ALL})
    with pytest.raises(BudgetError, match=r"trains .* parameters, and 100 are allowed"):
        EXPERIMENT.run(row, TINY, seed=0)


def test_adapters_draw_by_the_seed() -> None:
    options = {"config": "UniLoraConfig", "theta_d_length": 50, "target_modules": ALL}
    models = [adapted(SMALL, "50", replace(TRAINING, seed=seed), **options) for seed in (0, 0, 1)]
    seeds = [model.peft_config["default"].proj_seed for model in models]  # type: ignore[union-attr, index]
    assert seeds == [0, 0, 1]


@pytest.mark.parametrize("row", [row for row in ROWS if row.budget], ids=lambda row: f"{row.method}/{row.budget}")
def test_every_adapter_fits_its_budget_and_comes_back_from_its_file(row: Row) -> None:
    json.dumps(TABLE.settings(row, TINY))
    assert isinstance(row.network, Llama)
    model = row.build(row.network, row.budget, TRAINING, **row.options)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    allowed = parse_budget(row.budget, count)
    assert (0.7 if row.method.startswith("LoRA") else 0.95) * allowed <= count <= allowed
    tokens = torch.arange(16)[None]
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)  # stands for training
    loaded, size = through_file(model.eval(), base_model(row.network, RECIPE.of_base))
    assert torch.allclose(loaded.eval()(tokens).logits, model(tokens).logits, atol=1e-4)
    assert size < 4 * allowed + 25_000  # names and descriptions


def test_the_base_model_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(adapters, "BASE_TEXT", "python_library")
    adapters._base_model.cache_clear()
    first = base_model(SMALL, RECIPE.of_base)
    (file,) = (tmp_path / "shapeshift").iterdir()
    adapters._base_model.cache_clear()
    monkeypatch.setattr(adapters, "train", None)
    second = base_model(SMALL, RECIPE.of_base)
    adapters._base_model.cache_clear()
    assert file.suffix == ".pt"
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    assert not torch.equal(first.lm_head.weight, SMALL.build().lm_head.weight)


def test_rates_are_chosen_on_validation_text() -> None:
    task = RATES_TABLE.task("perl_doc", "cpu")
    assert task.options == {**TABLE.task("perl_doc", "cpu").options, "validation": 1, "scored": 1 << 15}
    tried = {row.method.rpartition(", rate")[0] for row in RATES_TABLE.rows}
    assert tried == set(RATES)


def test_the_caption_says_what_is_read() -> None:
    caption = EXPERIMENT.caption({"train": 1000, "test": 500}, asdict(RECIPE))
    assert "adapted in 3 steps of 2 windows of 16 bytes to 1,000 bytes of text" in caption


def test_the_whole_adapter_is_that_which_is_compressed() -> None:
    (row,) = (row for row in ROWS if row.method == WHOLE)
    whole = row.build(NETWORK, "", TRAINING, **row.options)
    model = compressed_lora(NETWORK, "500", TRAINING)
    assert isinstance(whole, peft.PeftModel)
    assert shapeshift.report(model).dense == sum(
        parameter.numel() for parameter in whole.parameters() if parameter.requires_grad
    )
