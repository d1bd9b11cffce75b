"""Which layers share parameters."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, compressed, dense, learned
from benchmarks.row import Row
from benchmarks.table import Table, pairs

STAGES = {
    "stem": "stage1",
    "blocks.[01]": "stage1",
    "blocks.[23]": "stage2",
    "blocks.[45]": "stage3",
    "head": "stage3",
}

ROWS = (
    Row(WRN_16_1, "dense", "", dense),
    *(
        row
        for budget in ("25k", "50%")
        for row in (
            Row(WRN_16_1, "single", budget, compressed, {"mapping": "single"}),
            Row(WRN_16_1, "shape", budget, compressed, {"mapping": "shape"}),
            Row(WRN_16_1, "random", budget, compressed, {"mapping": "random", "num_groups": 4}),
            Row(WRN_16_1, "manual", budget, compressed, {"mapping": STAGES}),
            Row(WRN_16_1, "learned", budget, learned, {"num_groups": 4}),
        )
    ),
    # At 25k the coarse clusters that the search starts with have no room for a template each.
    Row(WRN_16_1, "learned from gradients", "50%", learned, {"num_groups": 4, "method": "gradient"}),
)

TABLE = Table(
    name="mapping",
    title="Parameter mapping",
    source="Plummer et al. 2022, tables 7 and 9",
    expectation=(
        "One store for all layers, one per shape, four by chance, one per stage of the network by hand, and four that "
        "are learned in a fifth of the epochs before the training proper: by K-means on coefficients, or from "
        "gradients (Teterwak et al. 2024), as many as these suggest. Learned groups are expected to be on par with "
        "those by hand or ahead of them, and ahead of those by chance."
    ),
    rows=ROWS,
    claims=(
        Claim("Learned groups are on par with those by hand or ahead", pairs(ROWS, "learned", "manual")),
        Claim("Learned groups are ahead of those by chance", pairs(ROWS, "learned", "random")),
        Claim("Learned groups are on par with one store or ahead", pairs(ROWS, "learned", "single")),
        Claim("Gradients are on par with K-means or ahead", pairs(ROWS, "learned from gradients", "learned")),
    ),
    adapt=quick,
)
