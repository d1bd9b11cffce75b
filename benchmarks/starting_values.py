"""What a budget above the model's own size needs: ``python -m benchmarks.starting_values``.

The thin WRN-16-0.25 at 200% and 400% with other starting coefficients, other numbers of templates, and another
learning rate or weight decay of the store than the default's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

import shapeshift
from benchmarks.sweep import NETWORKS, RECIPE, Row, run
from shapeshift.generators.wavg import WeightedAverage

NETWORK = "WRN-16-0.25"


def with_coefficients(budget: str, start: str, length: float, **options: int) -> nn.Module:
    """Compress the thin network and start its coefficients in another way.

    Args:
        budget: the budget.
        start: "signs" of equal magnitude, "equal", "one-hot", or "random" normal.
        length: of each weight's row of coefficients.
        **options: fields of ``Config``.
    """
    model = shapeshift.compress(NETWORKS[NETWORK](), budget, **options)
    for group in model.modules():
        if isinstance(group, WeightedAverage) and group.coefficients is not None:
            with torch.no_grad():
                for index, draw in enumerate(group.layout.draws):
                    row = {
                        "signs": torch.randint(0, 2, (draw.count,)) * 2.0 - 1.0,
                        "equal": torch.ones(draw.count),
                        "one-hot": torch.eye(draw.count)[index % draw.count],
                        "random": torch.randn(draw.count),
                    }[start]
                    if draw.start < len(group.coefficients):
                        group.coefficients[draw.start : draw.start + draw.count] = row / row.norm() * length
            group.calibrate()
    return model


def rows() -> list[Row]:
    """List what is compared."""
    found = [Row(NETWORK, "dense", "", NETWORKS[NETWORK])]
    for budget in ("200%", "400%"):
        for start in ("signs", "equal", "one-hot", "random"):
            found.append(_row(budget, f"{start}, length 5", start, 5.0))
        for length in (1.0, 10.0):
            found.append(_row(budget, f"signs, length {length:g}", "signs", length))
        found.append(_row(budget, "signs, 16 templates", "signs", 5.0, max_templates=16))
        for recipe in (replace(RECIPE, learning_rate=0.03), replace(RECIPE, weight_decay=0.0)):
            method = f"signs, lr {recipe.learning_rate:g}, decay {recipe.weight_decay:g}"
            found.append(replace(_row(budget, method, "signs", 5.0), recipe=recipe))
    return found


def _row(budget: str, method: str, start: str, length: float, **options: int) -> Row:
    return Row(NETWORK, method, budget, partial(with_coefficients, budget, start, length, **options))


if __name__ == "__main__":
    run("starting_values", __doc__.split(":")[0], rows())
