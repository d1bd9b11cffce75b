"""Predictions that more and more members of a family make together, within limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.superweights import Family, anytime
from tests.families import averages, build, images
from tests.tolerances import assert_close


def test_anytime_yields_the_average_after_each_member_in_order() -> None:
    family = build()
    family.order.copy_(torch.tensor([3, 1, 0, 2]))
    x = images()
    found = list(family.anytime(x))
    assert_close(found, averages(family, x), "reordered")
    assert_close(found[-1], family.predict(x), "reordered")


def test_anytime_stops_at_the_multiply_accumulates_that_are_allowed() -> None:
    family = build()
    family.order.copy_(torch.tensor([3, 1, 0, 2]))
    x = images()
    macs = family.count_macs(x)
    assert len(set(macs)) == 4
    spent = list(itertools.accumulate(macs[index] for index in (3, 1, 0, 2)))
    for allowed, count in ((spent[0], 1), (spent[1] - 1, 1), (spent[1], 2), (spent[3], 4), (10 * spent[3], 4)):
        assert len(list(family.anytime(x, macs=allowed))) == count
    with pytest.raises(shapeshift.BudgetError, match=f"takes {spent[0]:,} multiply-accumulates"):
        family.anytime(x, macs=spent[0] - 1)


class Clock:
    """A clock that members move on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(nn.Module):
    """A classifier of a known duration in seconds."""

    def __init__(self, clock: Clock, seconds: float, width: int) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return self.layers(x)


def test_anytime_starts_no_member_that_would_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(anytime, "perf_counter", clock)
    # The last one takes far longer than its multiply-accumulates suggest.
    family = Family([Slow(clock, 0.01, 10), Slow(clock, 0.02, 20), Slow(clock, 1.0, 20)])
    x = torch.randn(2, 3, 2, 2)
    family.count_macs(x)
    assert len(list(family.anytime(x, budget_ms=5))) == 1  # the first one in any case
    assert len(list(family.anytime(x, budget_ms=29.9))) == 1
    assert len(list(family.anytime(x, budget_ms=31))) == 2
    for _ in range(2):  # nothing is known about the last one yet, and then no more than one run
        begin = clock.now
        assert len(list(family.anytime(x, budget_ms=51))) == 3
        assert clock.now - begin > 1
    begin = clock.now
    assert len(list(family.anytime(x, budget_ms=51))) == 2
    assert clock.now - begin == pytest.approx(0.03)
    # The time that the user takes between predictions counts.
    predictions = family.anytime(x, budget_ms=51)
    next(predictions)
    clock.now += 0.03
    assert list(predictions) == []


def test_one_slow_run_does_not_keep_a_member_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(anytime, "perf_counter", clock)
    family, x = Family([Slow(clock, 0.01, 10), Slow(clock, 0.02, 20)]), torch.randn(2, 3, 2, 2)
    for seconds in (3.0, 0.02, 0.02, 3.0, 0.02):
        family.members[1].seconds = seconds
        assert len(list(family.anytime(x, budget_ms=40))) == 2


def test_costs_on_other_shapes_are_counted_for_a_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    family = build()
    family.count_macs(torch.randn(2, 3, 8, 8))
    monkeypatch.setattr(Family, "extract", lambda *_: pytest.fail("counted"))
    assert len(list(family.anytime(torch.randn(2, 3, 12, 12)))) == len(family.members)


def test_samples_that_are_confident_are_left_to_the_members_so_far() -> None:
    family = build()
    with torch.no_grad():
        for member in family.members:
            member.head.bias[0] += 0.5
    x = images(8) * torch.linspace(0.1, 4, 8)[:, None, None, None]
    first, *_ = averages(family, x)
    confidence = first.amax(1).sort().values[3].item()
    family.count_macs(x)
    seen: list[int] = []
    family.members[1].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    found = list(family.anytime(x, confidence=confidence))
    assert seen == [int((first.amax(1) < confidence).sum())]
    assert 0 < seen[0] < 8
    sure = first.amax(1) >= confidence
    for later in found[1:]:
        assert_close(later[sure], first[sure], "reordered")
        assert_close(later.sum(1), torch.ones(8), "reordered")
    assert_close(found[1][~sure], averages(family, x)[1][~sure], "reordered")
    assert len(list(family.anytime(x, confidence=1e-6))) == 1


@pytest.mark.parametrize(
    "limit",
    [
        {"budget_ms": 0},
        {"budget_ms": math.nan},
        {"budget_ms": "5"},
        {"macs": -1},
        {"confidence": 0},
        {"confidence": 1.5},
    ],
    ids=str,
)
def test_limits_that_cannot_be(limit: dict[str, float]) -> None:
    with pytest.raises(shapeshift.ConfigError, match=f"{next(iter(limit))} must be a positive number"):
        build(budget=None).anytime(images(), **limit)
