"""Which rows are expected to end ahead of which, and whether they do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shapeshift.experiments.error_plot import spread


@dataclass(frozen=True)
class Ordering:
    """A claim that in each of some pairs of rows the first ends ahead.

    Attributes:
        claim: a sentence.
        pairs: the keys of two rows each, the one that is expected to be ahead first.
        metric: the name of the metric that is judged; empty for the experiment's first.
    """

    claim: str
    pairs: tuple[tuple[str, str], ...]
    metric: str = ""


class Verdict(StrEnum):
    """What measured values say to a claim."""

    REPRODUCED = "reproduced"
    WITHIN = "within one standard deviation"
    NOT_REPRODUCED = "not reproduced"
    ONE_SEED = "one seed: undecided"


def judge(first: Sequence[float], second: Sequence[float]) -> Verdict:
    """Judge whether values are lower than others.

    The means are compared by the larger one of the two standard deviations over seeds.

    Args:
        first: the values of all seeds that are expected to be lower.
        second: those that they are compared with.

    Returns:
        The verdict; undecided where there is a single seed, which has no deviation.
    """
    if min(len(first), len(second)) < 2:
        return Verdict.ONE_SEED
    gap, deviation = statistics.mean(second) - statistics.mean(first), max(spread(first), spread(second))
    if gap > deviation:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if gap < -deviation else Verdict.WITHIN
