"""The number of templates that a weight is mixed from."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, WRN_16_QUARTER, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs

NUM_TEMPLATES = (2, 4, 6, 8, 10)

ROWS = tuple(
    row
    for network in (WRN_16_1, WRN_16_QUARTER)
    for row in (
        Row(network, "dense", "", dense),
        *(Row(network, f"K={number}", "150%", compressed, {"max_templates": number}) for number in NUM_TEMPLATES),
    )
)

TABLE = Table(
    name="templates",
    title="The number of templates",
    source="Plummer et al. 2022, table 13",
    expectation=(
        "At a budget above the network's own size, each weight is mixed from up to K templates. The paper's WRN-28-10 "
        "has 19.66 ± 0.23, 19.59 ± 0.21, 19.48 ± 0.24, 19.24 ± 0.29 and 19.32 ± 0.27% error on CIFAR-100 at K = 2, 4, "
        "6, 8 and 10: more templates do no harm, and their number matters little."
    ),
    rows=ROWS,
    claims=tuple(
        Claim(f"K = {number} is on par with K = 2 or ahead", pairs(ROWS, f"K={number}", "K=2"))
        for number in NUM_TEMPLATES[1:]
    ),
    adapt=quick,
)
