"""Claims, their verdicts, and the number of seeds that decides them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks.claims import POWER, Comparison, Verdict, seeds_needed
from benchmarks.table import pairs
from tests.benchmarks.tiny import ROWS


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((2.0, 3.0, 2.5), Verdict.AHEAD),
        ((-2.0, -3.0, -2.5), Verdict.BEHIND),
        ((0.1, -0.1, 0.05), Verdict.ON_PAR),
        ((0.1, 0.11, 0.12), Verdict.ON_PAR),  # it excludes 0, and lies within what matters
        ((1.0, -1.0, 2.0), Verdict.UNDECIDED),
        ((0.0, 0.0), Verdict.ON_PAR),
        ((5.0,), Verdict.UNDECIDED),  # one seed has no interval
    ],
)
def test_verdicts(differences: tuple[float, ...], verdict: Verdict) -> None:
    assert Comparison(differences, margin=0.3).verdict == verdict


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    first, second = [10.2, 11.0, 10.5, 10.9], [11.7, 11.9, 12.3, 12.0]
    found = Comparison(tuple(other - one for one, other in zip(first, second, strict=True)), margin=0.3)
    low, high = ttest_rel(second, first).confidence_interval(0.95)
    assert math.isclose(found.mean - found.half_width, low)
    assert math.isclose(found.mean + found.half_width, high)
    assert str(found) == f"{found.mean:+.2f} ± {found.half_width:.2f}"


@pytest.mark.parametrize(
    ("pilot", "least", "most"), [((0.0, 0.0), 2, 2), ((0.1, 0.2), 2, 4), ((1.0, 2.0, 0.0), 85, 95)]
)
def test_more_spread_needs_more_seeds(pilot: tuple[float, ...], least: int, most: int) -> None:
    assert least <= seeds_needed(pilot, margin=0.3) <= most


def test_the_seeds_that_are_needed_show_the_margin_four_times_in_five() -> None:
    pilot, margin = (0.0, 0.6, 0.3, 0.9), 0.3
    seeds = seeds_needed(pilot, margin)
    generator = torch.Generator().manual_seed(0)
    deviation = torch.tensor(pilot).std().item()
    drawn = margin + deviation * torch.randn(1000, seeds, generator=generator)
    shown = sum((one := Comparison(tuple(each), 1e-9)).mean - one.half_width > 0 for each in drawn.tolist())
    assert abs(shown / 1000 - POWER) < 0.05


def test_a_row_without_a_budget_is_paired_with_every_budget() -> None:
    assert pairs(ROWS, "compressed", "dense") == (("WRN-10-0.25/compressed/50%", "WRN-10-0.25/dense/"),)
    assert pairs(ROWS, "dense", "compressed") == (("WRN-10-0.25/dense/", "WRN-10-0.25/compressed/50%"),)
    assert not pairs(ROWS, "dense", "reduced")
