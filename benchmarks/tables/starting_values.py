"""Starting values, numbers of templates and recipes at budgets above the network's own size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.claims import Claim
from benchmarks.experiments.networks import WRN_16_QUARTER, Network, Training, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs
from shapeshift.generators.base import calibrate_gains
from shapeshift.generators.wavg import WeightedAverage
from shapeshift.surgery.roots import require_shared

DEFAULT = "geometric, length 5"
STARTS, LENGTHS = ("geometric", "normal", "signs", "equal", "one-hot"), (1.0, 10.0)
RECIPES = ({"learning_rate": 0.03, "weight_decay": 0.0005}, {"learning_rate": 0.1, "weight_decay": 0.0})


def with_coefficients(
    network: Network, budget: str, training: Training, start: str, length: float, **options: Any
) -> nn.Module:
    """Build a network, compress it, and start its coefficients in another way than the library does.

    Args:
        network: The network that is built.
        budget: The budget of the compressed network.
        training: The training that the network is built for.
        start: The kind of row that each weight's coefficients start as: "geometric" rows halve from entry to entry, in
            random order and with random signs; "normal" rows have a random direction; "signs" are random and of equal
            magnitude; "equal" entries are the same; a "one-hot" row has a single one.
        length: The length of each weight's row of coefficients.
        **options: Fields of :class:`shapeshift.Config`, for one group of weights.
    """
    model = compressed(network, budget, training, **options)
    (generator,) = require_shared(model).generators()
    assert isinstance(generator, WeightedAverage)
    if generator.coefficients is not None:
        rows = [_draw_row(start, count, index) for index, count in enumerate(generator.layout.counts)]
        with torch.no_grad():
            generator.coefficients.copy_(torch.cat([row / row.norm() * length for row in rows]))
            calibrate_gains(generator)
    return model


def _draw_row(start: str, count: int, index: int) -> Tensor:
    """Draw the coefficients of one weight. Every kind of row draws the same, so that kinds differ in nothing else."""
    return {
        "geometric": 0.5 ** torch.randperm(count) * (torch.randint(0, 2, (count,)) * 2.0 - 1.0),
        "normal": torch.randn(count),
        "signs": torch.randint(0, 2, (count,)) * 2.0 - 1.0,
        "equal": torch.ones(count),
        "one-hot": torch.eye(count)[index % count],
    }[start]


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
