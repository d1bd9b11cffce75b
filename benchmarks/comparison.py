"""What a benchmark of errors is: rows of networks to train, and the order that they are expected to end in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

import shapeshift
from benchmarks.distillation import Distillation
from benchmarks.networks import Network
from benchmarks.ordering import Ordering
from benchmarks.task import Task

# Takes the network, the budget and the training, and a row's options by name. A function of a module: other processes
# import it.
Build = Callable[..., nn.Module]


@dataclass(frozen=True)
class Row:
    """One row of a table: a network, how it is made, and at which budget.

    Attributes:
        network: what is trained.
        method: what the table calls the way it is made.
        budget: as the user writes it; empty for the dense network.
        build: makes it.
        options: what ``build`` is given by name, such as JSON can hold.
        recipe: the fields of the recipe in which this row differs from the others.
        distillation: the method and the teacher that it learns from; None to learn from labels alone.
    """

    network: Network
    method: str
    budget: str
    build: Build
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    distillation: Distillation | None = None

    @property
    def key(self) -> str:
        """The row's name in files."""
        return f"{self.network}/{self.method}/{self.budget}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the row's runs depend on, as a dict that JSON can hold."""
        return {
            "network": asdict(self.network),
            "build": self.build.__name__,
            "options": dict(self.options),
            "recipe": dict(self.recipe),
            **({"distillation": asdict(self.distillation)} if self.distillation else {}),
        }

    @property
    def identity(self) -> str:
        """What tells the row's runs from others under the same settings, whatever a table calls them."""
        options = {**shapeshift.Config().to_dict(), **self.options} if self.budget else self.options
        return json.dumps({**self.settings, "budget": self.budget, "options": options}, sort_keys=True)


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
        adapt: what is changed in the task; nothing by default.
        line: the fields of a row whose values make a line in the picture of error against parameters; empty for no
            picture.

    Raises:
        ValueError: if two rows have one key, or an ordering names a row that is not there.
    """

    name: str
    title: str
    source: str
    expectation: str
    rows: tuple[Row, ...]
    orderings: tuple[Ordering, ...] = ()
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
        first: the method that is expected to have the lower error.
        second: the other one. Rows of a method without a budget, such as the dense network, are paired with each.
    """
    return tuple(
        (one.key, other.key)
        for one in rows
        for other in rows
        if (one.method, other.method, one.network) == (first, second, other.network)
        and (one.budget == other.budget or not one.budget or not other.budget)
    )
