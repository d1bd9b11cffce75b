"""Claims that some rows of a table end ahead of others, judged by differences that are paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import t as student

CONFIDENCE = 0.95  # of an interval
POWER = 0.8  # the chance to see a difference as large as the margin


@dataclass(frozen=True)
class Claim:
    """A claim that in each pair of rows the first row ends ahead of the second, or on par with it.

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

    AHEAD = "ahead"
    ON_PAR = "on par"
    BEHIND = "behind"
    UNDECIDED = "cannot tell"


@dataclass(frozen=True)
class Comparison:
    """Two rows under the same seeds.

    Attributes:
        differences: How much better the first row is than the second, for each seed that both rows have.
        margin: The smallest difference that matters, in the unit of the metric.
        digits: The number of decimal places of its text.
    """

    differences: tuple[float, ...]
    margin: float
    digits: int = 2

    @property
    def mean(self) -> float:
        """The mean difference."""
        return statistics.mean(self.differences)

    @property
    def half_width(self) -> float:
        """Half the width of the 95% interval of the mean by Student's t, which a single seed leaves infinite."""
        count = len(self.differences)
        if count < 2:
            return math.inf
        quantile = float(student.ppf((1 + CONFIDENCE) / 2, count - 1))
        return quantile * statistics.stdev(self.differences) / math.sqrt(count)

    @property
    def verdict(self) -> Verdict:
        """On par if the interval lies within the margin; else ahead or behind if it excludes 0."""
        low, high = self.mean - self.half_width, self.mean + self.half_width
        if -self.margin <= low and high <= self.margin:
            return Verdict.ON_PAR
        if low > 0:
            return Verdict.AHEAD
        return Verdict.BEHIND if high < 0 else Verdict.UNDECIDED

    def __str__(self) -> str:
        interval = f" ± {self.half_width:.{self.digits}f}" if len(self.differences) > 1 else ""
        return f"{self.mean:+.{self.digits}f}{interval}"


def seeds_needed(pilot: Sequence[float], margin: float) -> int:
    """Return the number of paired seeds that show a difference of the margin four times in five.

    Args:
        pilot: The paired differences of a few seeds, at least two. Only their standard deviation counts.
        margin: The smallest difference that matters, more than 0.

    Returns:
        The smallest number of seeds for which the 95% interval of a mean that differs from 0 by the margin excludes 0
        with a probability of 80%, by the quantiles of Student's t.
    """
    ratio = statistics.stdev(pilot) / margin

    def enough(seeds: int) -> bool:
        quantiles = student.ppf([(1 + CONFIDENCE) / 2, POWER], seeds - 1)
        return bool(sum(quantiles) * ratio <= math.sqrt(seeds))

    # Student's quantiles are larger than those of the normal distribution, which need no count to start from.
    seeds = max(2, math.ceil((2.8 * ratio) ** 2))
    while not enough(seeds):
        seeds += 1
    return seeds
