"""Claims that some rows of a table end ahead of others, and whether the runs bear them out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shapeshift.experiments.error_plot import spread


@dataclass(frozen=True)
class Claim:
    """A claim that in each pair of rows the first row ends ahead of the second.

    Attributes:
        sentence: The claim in words, as the report prints it.
        pairs: The keys of two rows each. The row that is expected to be ahead comes first.
        metric: The name of the metric that is judged. Empty means the experiment's first metric.
    """

    sentence: str
    pairs: tuple[tuple[str, str], ...]
    metric: str = ""


class Verdict(StrEnum):
    """The outcome of a claim for one pair of rows."""

    REPRODUCED = "reproduced"
    WITHIN = "within one standard deviation"
    NOT_REPRODUCED = "not reproduced"
    ONE_SEED = "one seed: undecided"


def judge(first: Sequence[float], second: Sequence[float]) -> Verdict:
    """Judge whether the values of one row are lower than those of another.

    The means have to differ by more than the larger one of the two standard deviations over seeds.

    Args:
        first: The values of the row that is expected to be lower, one for each seed.
        second: The values of the row that it is compared with, one for each seed.

    Returns:
        The verdict. It is undecided where a row has a single seed, which has no deviation.
    """
    if min(len(first), len(second)) < 2:
        return Verdict.ONE_SEED
    gap, deviation = statistics.mean(second) - statistics.mean(first), max(spread(first), spread(second))
    if gap > deviation:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if gap < -deviation else Verdict.WITHIN
