"""What a table of results is: rows of networks to train, and the order that they are expected to end in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.claims import Ordering
from benchmarks.experiments.base import Experiment
from benchmarks.experiments.classification import CLASSIFICATION
from benchmarks.row import Row
from benchmarks.task import Task


@dataclass(frozen=True)
class Comparison:
    """A table of a paper, or of our own.

    Attributes:
        name: on the command line, and of the files.
        title: one line.
        source: where it comes from: the paper and its table.
        expectation: what the rows are and what is expected of them, as Markdown.
        rows: what is trained.
        orderings: what is expected, pair by pair.
        experiment: what is trained and measured.
        adapt: what is changed in the experiment's task; nothing by default.
        line: the fields of a row whose values make a line in the picture of the first metric against parameters; empty
            for no picture.

    Raises:
        ValueError: if two rows have one key, or an ordering names a row that is not there.
    """

    name: str
    title: str
    source: str
    expectation: str
    rows: tuple[Row, ...]
    orderings: tuple[Ordering, ...] = ()
    experiment: Experiment = CLASSIFICATION
    adapt: Callable[[Task], Task] = lambda task: task
    line: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = Counter(row.key for row in self.rows)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"{self.name} has two rows of one name: {', '.join(twice)}")
        missing = {key for ordering in self.orderings for pair in ordering.pairs for key in pair} - set(counts)
        if missing:
            raise ValueError(
                f"{self.name} expects an order of rows that it does not have: {', '.join(sorted(missing))}"
            )


def pairs(rows: Sequence[Row], first: str, second: str) -> tuple[tuple[str, str], ...]:
    """Pair the rows of two methods on the same network and at the same budget.

    Args:
        rows: to choose from.
        first: the method that is expected to be ahead.
        second: the other one. Rows of a method without a budget, such as the dense network, are paired with each.
    """
    return tuple(
        (one.key, other.key)
        for one in rows
        for other in rows
        if (one.method, other.method, one.network) == (first, second, other.network)
        and (one.budget == other.budget or not one.budget or not other.budget)
    )
