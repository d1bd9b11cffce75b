"""Test error against the parameter budget: ``python -m benchmarks.budget_sweep``.

WRN-16-1 at budgets below its own size against the thinner network of that size, and both WRN-16-1 and the thin
WRN-16-0.25 at 100% and above. The compressed rows without a remark are the default config; the others differ from it
in what they name, which is how the defaults were chosen.
"""

from __future__ import annotations

from functools import partial

from torch import nn

import shapeshift
from benchmarks.sweep import NETWORKS, Row, run
from shapeshift.budget import parse_budget
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import thin_wide_resnet

LOW, HIGH = ("6k", "12k", "25k", "50k"), ("100%", "200%", "400%")


def reduced(budget: str) -> nn.Module:
    """Build the thinner WRN-16-1 of a budget."""
    size = parse_budget(budget, shapeshift.count_parameters(NETWORKS["WRN-16-1"]()))
    return reduce_width(partial(thin_wide_resnet, depth=16, in_channels=1), size)


def compressed(network: str, budget: str, **options: str | int) -> nn.Module:
    """Build a network and compress it."""
    return shapeshift.compress(NETWORKS[network](), budget, **options)


def rows() -> list[Row]:
    """List what is compared."""
    found = []
    for budget in LOW:
        found.append(Row("WRN-16-1", "reduced", budget, partial(reduced, budget)))
        found += _compressed_rows("WRN-16-1", budget)
    for network, build in NETWORKS.items():
        found.append(Row(network, "dense", "", build))
        for budget in HIGH:
            found += _compressed_rows(network, budget)
    return found


def _compressed_rows(network: str, budget: str) -> list[Row]:
    methods: dict[str, dict[str, str | int]] = {"compressed": {}, "compressed, mapping=shape": {"mapping": "shape"}}
    if budget in LOW:  # only there is anything stretched
        methods["compressed, upsample=interpolate"] = {"upsample": "interpolate"}
    return [
        Row(network, method, budget, partial(compressed, network, budget, **options))
        for method, options in methods.items()
    ]


if __name__ == "__main__":
    run("budget_sweep", __doc__.split(":")[0], rows())
