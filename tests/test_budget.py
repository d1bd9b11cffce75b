"""Reading budgets, and meeting them for any shapes."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import shapeshift
from shapeshift import BudgetError
from shapeshift.budget import parse_budget
from shapeshift.compression import plan_compression
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS
from shapeshift.surgery.roots import require_shared
from tests.methods import CHOICES, least_used
from tests.models import mlp

dense_sizes = st.integers(1, 10**12)


@given(st.integers(1, 10**15), dense_sizes)
def test_an_int_is_a_number_of_parameters(number: int, dense: int) -> None:
    assert parse_budget(number, dense) == number
    assert parse_budget(str(number), dense) == parse_budget(f" {number:_} ", dense)


@given(st.integers(1, 10**6), st.sampled_from([("k", 10**3), ("M", 10**6), ("b", 10**9), ("G", 10**9)]))
def test_units_are_decimal(number: int, unit: tuple[str, int]) -> None:
    for text in (f"{number}{unit[0]}", f"{number} {unit[0].upper()}", f"{number}.0{unit[0].lower()}"):
        assert parse_budget(text, 7) == number * unit[1]


@given(st.integers(1, 10_000), st.integers(10_000, 10**9))
def test_shares_round_down_to_what_decimal_arithmetic_gives(hundredths: int, dense: int) -> None:
    exact = math.floor(Fraction(hundredths, 10_000) * dense)
    share = f"{hundredths // 100}.{hundredths % 100:02}%"
    if exact:
        assert parse_budget(share, dense) == exact
        assert parse_budget(hundredths / 10_000, dense) == exact
        assert parse_budget(f"{hundredths / 10_000:f}x", dense) == exact
        assert parse_budget(f"{hundredths / 10_000:f}", dense) == exact


def test_a_string_without_a_unit_is_read_as_python_would_read_it() -> None:
    assert [parse_budget(text, 1000) for text in ("1", "1.", ".5", "5e-1", "1_0")] == [1, 1000, 500, 500, 10]


@pytest.mark.parametrize(
    "budget",
    [0, -1, 0.0, -0.5, math.nan, math.inf, 1e-9, True, None, [3], "", "k", "12q", "1.5.2", "-3", "half", "1__0"],
)
def test_what_is_no_budget_is_refused_with_the_forms_that_are(budget: object) -> None:
    with pytest.raises(BudgetError, match="300k"):
        parse_budget(budget, 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", ["25%", "2x", 0.5])
def test_no_share_of_nothing_is_a_budget(budget: float | str) -> None:
    with pytest.raises(BudgetError, match="does not come to a number of parameters"):
        parse_budget(budget, 0)


def test_tensors_are_counted_once_and_only_where_they_are_trained() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    assert shapeshift.count_parameters(model) == 9 + 3 * 3


shapes = st.lists(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple) | st.sampled_from([(24, 16, 3, 3), (64, 32)]),
    min_size=1,
    max_size=6,
)


def parameters_of(shapes: list[tuple[int, ...]]) -> nn.Module:
    model = nn.Module()
    model.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)
    return model


def bound(model: nn.Module, budget: int, side: str, **options: object) -> int:
    """Read the bound that an impossible budget is refused with."""
    with pytest.raises(BudgetError, match=f"the {side} for this model and config is") as error:
        plan_compression(model, budget, **options)
    found = re.search(r"config is ([0-9,]+) ", str(error.value))
    assert found is not None
    return int(found[1].replace(",", ""))


@settings(max_examples=150, deadline=None)
@given(
    # A matrix that is surely a candidate, a bias that is surely none, and whatever else comes.
    shapes=shapes.map(lambda others: [(5, 4), (2,), *others]),
    position=st.floats(0, 1),
    choice=st.one_of(st.tuples(st.just(name), st.sampled_from(list(registry))) for name, registry in CHOICES.items()),
    max_templates=st.sampled_from([None, 1, 2, 5]),
)
def test_any_budget_between_the_bounds_is_met(
    shapes: list[tuple[int, ...]], position: float, choice: tuple[str, str], max_templates: int | None
) -> None:
    options: dict[str, Any] = {"max_templates": max_templates, "embedding_size": 1, choice[0]: choice[1]}
    torch.manual_seed(0)
    model = parameters_of(shapes)
    total = shapeshift.count_parameters(model)
    most = bound(model, 10**9, "most", **options)
    least = bound(model, 1, "least", **options)
    allowed = round(least + position * (most - least))

    plan = plan_compression(model, allowed, **options)
    assert shapeshift.count_parameters(model) == total, "planning changed the model"
    shapeshift.compress(model, allowed, **options)
    used = shapeshift.count_parameters(model)
    assert used == plan.total
    # Coefficients come in rows, and the softmax's templates in whole rows and columns, which counts where weights hold
    # a few numbers only.
    assert min(least_used(plan) * allowed, allowed - 8 * len(shapes)) <= used <= allowed

    # No number is dead, and none is missing.
    groups = require_shared(model).generators()
    with torch.no_grad():
        for group in groups:
            for parameter in group.parameters():
                parameter.normal_()
    generated = [weight for group in groups for weight in group.generate(range(len(group.weights)))]
    sum((weight * torch.randn_like(weight)).sum() for weight in generated).backward()
    for group in groups:
        for parameter in group.parameters():
            assert (parameter.grad != 0).all()


@pytest.mark.parametrize("mapping", list(MAPPINGS))
@pytest.mark.parametrize("combine", list(GENERATORS))
def test_the_bounds_themselves_are_met_and_one_beyond_is_not(mapping: str, combine: str) -> None:
    shapes = [(5, 4), (5, 4), (7, 3, 3), (6,)]
    options = {"mapping": mapping, "combine": combine}
    least = bound(parameters_of(shapes), 1, "least", **options)
    most = bound(parameters_of(shapes), 10**9, "most", **options)
    for budget in (least, most):
        model = shapeshift.compress(parameters_of(shapes), budget, **options)
        assert shapeshift.count_parameters(model) == budget
    assert bound(parameters_of(shapes), least - 1, "least", **options) == least
    assert bound(parameters_of(shapes), most + 1, "most", **options) == most


def test_numpy_numbers_are_budgets_too() -> None:
    assert plan_compression(mlp(), np.int64(500)).budget == 500
    assert plan_compression(mlp(), np.float64(0.5)).budget == shapeshift.count_parameters(mlp()) // 2
