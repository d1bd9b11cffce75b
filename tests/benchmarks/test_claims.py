"""Claims and their verdicts."""

from __future__ import annotations

import pytest

from benchmarks.claims import Verdict, judge
from benchmarks.table import pairs
from tests.benchmarks.tiny import ROWS


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], Verdict.REPRODUCED),
        ([4.0, 4.0, 4.0], [1.0, 2.0, 3.0], Verdict.NOT_REPRODUCED),
        ([1.0, 2.0, 3.0], [2.5, 2.5, 2.5], Verdict.WITHIN),
        ([2.5, 2.5, 2.5], [1.0, 2.0, 3.0], Verdict.WITHIN),
        ([1.0, 2.0, 3.0], [3.0, 3.0, 3.0], Verdict.WITHIN),  # exactly one standard deviation
        ([1.0, 1.0], [1.0, 1.0], Verdict.WITHIN),
        ([1.0], [4.0, 4.0], Verdict.ONE_SEED),
    ],
)
def test_verdicts(first: list[float], second: list[float], verdict: Verdict) -> None:
    assert judge(first, second) == verdict


def test_a_row_without_a_budget_is_paired_with_every_budget() -> None:
    assert pairs(ROWS, "compressed", "dense") == (("WRN-10-0.25/compressed/50%", "WRN-10-0.25/dense/"),)
    assert pairs(ROWS, "dense", "compressed") == (("WRN-10-0.25/dense/", "WRN-10-0.25/compressed/50%"),)
    assert not pairs(ROWS, "dense", "reduced")
