"""The benchmark of a trained adapter that is made smaller."""

from __future__ import annotations

import json

import pytest

from benchmarks.experiments import smaller_adapters
from benchmarks.experiments.smaller_adapters import SmallerAdapters
from benchmarks.row import Row
from benchmarks.tables.adapters_made_smaller import BASE, MAGNITUDE, ROWS, SVD, TABLE, WHOLE
from tests.benchmarks.small_adapters import SMALL, TINY, leave_base_untrained


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the base model be an untrained one, and train each adapter anew."""
    leave_base_untrained(monkeypatch)
    smaller_adapters._trained.cache_clear()


def small(row: Row) -> Row:
    return Row(SMALL, row.method, row.budget, row.build, row.options)


def test_every_row_stays_within_its_share_of_the_adapter() -> None:
    runs = {}
    for row in ROWS:
        json.dumps(TABLE.settings(row, TINY))
        if row.budget in ("", "25%"):
            run = runs[row.method] = SmallerAdapters().run(small(row), TINY, seed=0)
            assert json.loads(json.dumps(run)) == run
    whole = runs[WHOLE]["parameters"]
    assert (runs[WHOLE]["error"], runs[BASE]["error"], runs[BASE]["parameters"]) == (0, 1, 0)
    for method in runs.keys() - {WHOLE, BASE}:
        assert 0.1 * whole < runs[method]["parameters"] <= 0.25 * whole + 1
        assert runs[method]["bits"] != runs[WHOLE]["bits"]
    assert 0 < runs[SVD]["error"] < 1
    assert 0 < runs[MAGNITUDE]["error"] < 1


def test_a_budget_of_the_whole_adapter_loses_nothing() -> None:
    for row in ROWS:
        if row.budget == "25%" and row.build is not smaller_adapters.trained_small:
            run = SmallerAdapters().run(Row(SMALL, row.method, "100%", row.build, row.options), TINY, seed=0)
            assert run["error"] < 1e-3, row.method


def test_the_trained_adapter_is_not_changed() -> None:
    first = SmallerAdapters().run(small(ROWS[1]), TINY, seed=0)
    for row in ROWS:
        if row.budget == "25%" and row.method in (SVD, MAGNITUDE):
            SmallerAdapters().run(small(row), TINY, seed=0)
    again = SmallerAdapters().run(small(ROWS[1]), TINY, seed=0)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
