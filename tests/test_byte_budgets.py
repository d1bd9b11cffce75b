"""Budgets in bytes: all files of a checkpoint together are never larger, and hardly smaller."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift.budget import bytes_of_budget, parse_budget
from shapeshift.byte_budget import checkpoint_size
from shapeshift.errors import BudgetError
from shapeshift.generators import GENERATORS
from shapeshift.plan import budget_range
from shapeshift.store_format import STORE_FORMATS
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import MODELS, Language, Residual

every_generator = pytest.mark.parametrize("combine", list(GENERATORS))
every_format = pytest.mark.parametrize("store", list(STORE_FORMATS))


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def planned_size(build: Any, folder: Path, **options: Any) -> tuple[int, int]:
    """Return the size that is planned of a compressed model's checkpoint, and that of its files."""
    model = compressed(build(), **options)
    plan = require_shared(model).plan
    shapeshift.save(model, folder)
    return checkpoint_size(plan, build()), bytes_in(folder)


@every_format
@every_generator
def test_the_size_is_known_before_anything_is_written(combine: str, store: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Residual()
    expected, found = planned_size(
        lambda: copy.deepcopy(plain), tmp_path, combine=combine, store=store, rest="bfloat16"
    )
    assert found == expected


@pytest.mark.parametrize("name", MODELS)
def test_the_size_of_every_model_is_known(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = MODELS[name].build()
    expected, found = planned_size(lambda: copy.deepcopy(plain), tmp_path, store="int8", rest="float16", budget=0.5)
    assert found == expected


class Wide(nn.Module):
    """Layers large enough for budgets of some kilobytes, and tensors with names that JSON escapes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"größe": nn.Linear(256, 96), "b": nn.Linear(96, 256)})
        self.register_buffer("far", torch.arange(5000))
        self.register_buffer("flags", torch.ones(20_000, dtype=torch.bool))
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers["b"](self.layers["größe"](x).relu())


@every_format
def test_the_size_of_large_tensors_is_known(store: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Wide()
    for budget in (0.5, 1.0):
        folder = tmp_path / str(budget)
        expected, found = planned_size(
            lambda: copy.deepcopy(plain), folder, store=store, budget=budget, mapping="shape"
        )
        assert found == expected


@every_format
@every_generator
def test_a_budget_in_bytes_is_used_and_never_exceeded(combine: str, store: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Residual(width=24)
    options: dict[str, Any] = {"combine": combine, "store": store, "rest": "bfloat16"}
    least, most = budget_range(model, shapeshift.Config(**options))
    plan = shapeshift.plan_compression(model, (least + min(most, 15_000)) // 2, **options)
    budget = plan.checkpoint_bytes + 7
    shapeshift.compress(model, f"{budget} bytes", **options)
    shapeshift.save(model, tmp_path)
    used = 0.9 if combine == "softmax" else 0.98
    assert used * budget <= bytes_in(tmp_path) <= budget
    report = shapeshift.report(model)
    assert (report.checkpoint_bytes, report.budget_bytes) == (bytes_in(tmp_path), budget)
    assert require_shared(shapeshift.load(tmp_path, Residual(width=24))).plan.budget_bytes == budget


def test_a_fit_leaves_room_for_its_errors(tmp_path: Path) -> None:
    model = shapeshift.compress(Residual(width=24), "30kB", init="fit", store="int8")
    shapeshift.save(model, tmp_path)
    assert 29_400 <= bytes_in(tmp_path) <= 30_000


def test_planning_in_bytes_on_the_meta_device(tmp_path: Path) -> None:
    with torch.device("meta"):
        plan = shapeshift.plan_compression(Language(), "10kB")
    report = shapeshift.report(plan)
    assert 9_800 <= report.checkpoint_bytes <= 10_000
    assert "of the budget of 10,000 bytes" in report.summary()


@pytest.mark.parametrize(
    ("budget", "size"),
    [
        ("500kB", 500_000),
        ("16MB", 16_000_000),
        ("1MiB", 2**20),
        ("1.5 KiB", 1536),
        ("1GB", 10**9),
        ("2gib", 2**31),
        ("300000 bytes", 300_000),
        ("0.1kb", 100),
        ("16M", None),
        ("2B", None),
        ("25%", None),
        (0.5, None),
        (300, None),
    ],
)
def test_units_of_two_letters_are_bytes(budget: Any, size: int | None) -> None:
    assert bytes_of_budget(budget) == size
    if size is None:
        assert parse_budget(budget, 1000) >= 1
    else:
        with pytest.raises(BudgetError, match=r"is in bytes, which only shapeshift\.compress"):
            parse_budget(budget, 1000)


def test_budgets_that_cannot_be_met_name_the_bound() -> None:
    with pytest.raises(BudgetError, match=r"100 bytes cannot be met: the least .* is [0-9,]+, with [0-9,]+ parameters"):
        shapeshift.compress(Residual(), "100 bytes")
    with pytest.raises(BudgetError, match=r"1,000,000,000 bytes cannot be met: the most .* is [0-9,]+"):
        shapeshift.compress(Residual(), "1GB")
    with pytest.raises(BudgetError, match="does not come to a number of bytes"):
        shapeshift.compress(Residual(), "0kB")
