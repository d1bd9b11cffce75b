"""What a budget above the model's own size needs: starts of the coefficients, numbers of templates, recipes."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.claims import Claim
from benchmarks.experiments.networks import WRN_16_QUARTER, Network, Training, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs
from shapeshift.generators.wavg import WeightedAverage

DEFAULT = "geometric, length 5"
STARTS, LENGTHS = ("geometric", "normal", "signs", "equal", "one-hot"), (1.0, 10.0)
RECIPES = ({"learning_rate": 0.03, "weight_decay": 0.0005}, {"learning_rate": 0.1, "weight_decay": 0.0})


def with_coefficients(
    network: Network, budget: str, training: Training, start: str, length: float, **options: Any
) -> nn.Module:
    """Build a network, compress it, and start its coefficients in another way than the library does.

    Args:
        network: what is built.
        budget: the budget.
        training: what it is built for.
        start: "geometric", each half as large as another and with random signs; "normal" draws, which give each row a
            random direction; "signs" of equal magnitude; "equal"; or "one-hot".
        length: of each weight's row of coefficients.
        **options: fields of :class:`shapeshift.Config`.
    """
    reset = partial(_reset_coefficients, start=start, length=length)
    with mock.patch.object(WeightedAverage, "reset_coefficients", lambda group, generator: reset(group)):
        return compressed(network, budget, training, **options)


def _reset_coefficients(group: WeightedAverage, start: str, length: float) -> None:
    rows = []
    for index, count in enumerate(group.layout.counts):
        row = {
            "geometric": 0.5 ** torch.randperm(count) * (torch.randint(0, 2, (count,)) * 2.0 - 1.0),
            "normal": torch.randn(count),
            "signs": torch.randint(0, 2, (count,)) * 2.0 - 1.0,
            "equal": torch.ones(count),
            "one-hot": torch.eye(count)[index % count],
        }[start]
        rows.append(row / row.norm() * length)
    if group.coefficients is not None:
        group.coefficients.copy_(torch.cat(rows))


def _row(budget: str, method: str, recipe: dict[str, float] | None = None, **options: Any) -> Row:
    options = {"start": "geometric", "length": 5.0, **options}
    return Row(WRN_16_QUARTER, method, budget, with_coefficients, options, recipe or {})


ROWS = (
    Row(WRN_16_QUARTER, "dense", "", dense),
    *(
        row
        for budget in ("200%", "400%")
        for row in (
            *(_row(budget, f"{start}, length 5", start=start) for start in STARTS),
            *(_row(budget, f"geometric, length {length:g}", length=length) for length in LENGTHS),
            _row(budget, "geometric, 16 templates", max_templates=16),
            *(
                _row(budget, f"geometric, lr {recipe['learning_rate']:g}, decay {recipe['weight_decay']:g}", recipe)
                for recipe in RECIPES
            ),
        )
    ),
)

TABLE = Table(
    name="starting_values",
    title="Starting values, above the network's own size",
    source="How the defaults were chosen",
    expectation=(
        "The thin WRN-16-0.25 with other starting coefficients than the default's, which are geometric and of "
        "length 5, with other numbers of templates, and with another learning rate or weight decay. The default is "
        "expected to be on par with all of them or ahead."
    ),
    rows=ROWS,
    claims=(
        Claim(
            "The default is on par with the others or ahead",
            tuple(
                pair
                for method in dict.fromkeys(row.method for row in ROWS)
                if method not in ("dense", DEFAULT)
                for pair in pairs(ROWS, DEFAULT, method)
            ),
        ),
    ),
)
