"""One row of a table of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

import shapeshift
from benchmarks.experiments.distillation import Distillation
from benchmarks.experiments.networks import Network

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
        """What the row's runs depend on, as JSON gives it back."""
        found = {
            "network": asdict(self.network),
            "build": self.build.__name__,
            "options": dict(self.options),
            "recipe": dict(self.recipe),
            **({"distillation": asdict(self.distillation)} if self.distillation else {}),
        }
        settings: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists
        return settings

    @property
    def identity(self) -> str:
        """What tells the row's runs from others under the same settings, whatever a table calls them."""
        options = {**shapeshift.Config().to_dict(), **self.options} if self.budget else self.options
        return json.dumps({**self.settings, "budget": self.budget, "options": options}, sort_keys=True)
