"""The number of parameter groups of a learned mapping."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, dense, learned
from benchmarks.row import Row
from benchmarks.table import Table

BUDGETS, NUM_GROUPS = ("25k", "50%"), (1, 2, 4, 8)

ROWS = (
    Row(WRN_16_1, "dense", "", dense),
    *(
        Row(WRN_16_1, f"P={number}", budget, learned, {"num_groups": number})
        for budget in BUDGETS
        for number in NUM_GROUPS
    ),
)

TABLE = Table(
    name="groups",
    title="The number of parameter groups",
    source="Plummer et al. 2022, table 12",
    expectation=(
        "P groups of layers that are learned in a fifth of the epochs before the training proper; P = 1 is one store "
        "for all. A few groups are expected to be on par with one store or ahead of it."
    ),
    rows=ROWS,
    claims=tuple(
        Claim(
            f"P = {number} is on par with one store or ahead",
            tuple((f"{WRN_16_1}/P={number}/{budget}", f"{WRN_16_1}/P=1/{budget}") for budget in BUDGETS),
        )
        for number in NUM_GROUPS[1:]
    ),
    adapt=quick,
)
