"""One row of a table of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

import shapeshift
from benchmarks.experiments.distillation import Distillation
from benchmarks.experiments.networks import Network

# Takes the network, the budget and the training, and a row's options by name. It is a function of a module, because
# other processes import it.
Build = Callable[..., nn.Module]


@dataclass(frozen=True)
class Row:
    """One row of a table: a network, a way to make it, and a budget.

    Attributes:
        network: The network that is trained.
        method: The table's name for the way that the network is made.
        budget: The budget as a user writes it. Empty means that there is none, as for a dense network.
        build: The function that makes the network.
        options: The keyword arguments of ``build``, such as JSON can hold.
        recipe: The fields of the recipe in which this row differs from the others.
        distillation: The method and the teacher that the network learns from. None means that it learns from labels
            alone.
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
        """The name of the row in its table, for patterns and claims."""
        return f"{self.network}/{self.method}/{self.budget}"

    @property
    def settings(self) -> dict[str, Any]:
        """The row's part of what determines its runs, under no name that the table gave it.

        Options of ``build`` that are fields of the config stand in the config, so that a row that names a default is
        the same as one that does not.
        """
        defaults = shapeshift.Config().to_dict()
        return {
            "network": asdict(self.network),
            "build": self.build.__name__,
            "budget": self.budget,
            "config": {name: self.options.get(name, default) for name, default in defaults.items()},
            "options": {name: value for name, value in self.options.items() if name not in defaults},
            "own_recipe": dict(self.recipe),
            "distillation": asdict(self.distillation) if self.distillation else None,
        }


def around_rate(row: Row, rate: float, **recipe: Any) -> list[Row]:
    """Return a row at half of a learning rate, at that rate and at twice the rate, with other fields of its recipe."""
    return [
        replace(row, method=f"{row.method}, rate {tried:g}", recipe={**recipe, "learning_rate": tried})
        for tried in (0.5 * rate, rate, 2 * rate)
    ]
