"""What matters in a ring: the order of its blocks, their signs, and their size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.claims import Claim
from benchmarks.experiments.networks import WRN_16_1, Network, Training, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs
from shapeshift.generators.base import calibrate_gains
from shapeshift.generators.ring import Ring
from shapeshift.surgery.roots import require_shared

BUDGETS = ("12k", "25k", "50%")
WHOLE = "ring, blocks of 1"


def plain_ring(network: Network, budget: str, training: Training, ordered: bool, signed: bool) -> nn.Module:
    """Build a network on a ring of single entries, and take away the random order or the signs.

    Args:
        network: The network that is built.
        budget: The budget of the compressed network.
        training: The training that the network is built for.
        ordered: Whether copies of the ring follow one another as they are.
        signed: Whether entries have random signs.
    """
    model = compressed(network, budget, training, combine="ring", ring_block=1)
    (ring,) = require_shared(model).generators()
    assert isinstance(ring, Ring)
    order, signs = ring.pattern
    if ordered:
        order.copy_(torch.arange(len(order)) % ring.layout.size)
    if not signed:
        signs.fill_(1)
    with torch.no_grad():
        calibrate_gains(ring)
    return model


def _ring(budget: str, block: int) -> Row:
    options: dict[str, Any] = {"combine": "ring", "ring_block": block}
    return Row(WRN_16_1, f"ring, blocks of {block}", budget, compressed, options)


def _without(budget: str, method: str, ordered: bool, signed: bool) -> Row:
    return Row(WRN_16_1, method, budget, plain_ring, {"ordered": ordered, "signed": signed})


ROWS = (
    Row(WRN_16_1, "dense", "", dense),
    *(
        row
        for budget in BUDGETS
        for row in (
            Row(WRN_16_1, "wavg", budget, compressed),
            *(_ring(budget, block) for block in (1, 9, 16, 64, 256)),
            _without(budget, "ring, signs only", ordered=True, signed=True),
            _without(budget, "ring, order only", ordered=False, signed=False),
            _without(budget, "ring, neither", ordered=True, signed=False),
        )
    ),
)

TABLE = Table(
    name="ring",
    title="Rings",
    source="Wang et al. 2023, Recurrent Parameter Generators",
    expectation=(
        "A ring against the default below the network's own size. With blocks of a single entry, the random order or "
        "the random signs are taken away. With both, blocks have 1, 9 (a kernel), 16, 64 or 256 entries, or a "
        "hundredth of the ring where that is less. The whole ring is expected to be ahead of the default and of a ring "
        "without order or signs, and larger blocks to be on par with single entries."
    ),
    rows=ROWS,
    claims=(
        Claim("Blocks of 256 are ahead of `wavg`", pairs(ROWS, "ring, blocks of 256", "wavg")),
        *(
            Claim(f"Single entries with order and signs are ahead of `{other}`", pairs(ROWS, WHOLE, other))
            for other in ("wavg", "ring, signs only", "ring, order only", "ring, neither")
        ),
        *(
            Claim(
                f"Blocks of {block} are on par with single entries or ahead",
                pairs(ROWS, f"ring, blocks of {block}", WHOLE),
            )
            for block in (9, 16, 64, 256)
        ),
    ),
    line=("method",),
)
