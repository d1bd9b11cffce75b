"""The picture of error against parameters: shared, thinner and dense networks."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.networks import WRN_16_1, WideNetwork, compressed, dense, generating, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs

GENERATORS = ("wavg", "emb")
FULL_STEM = "reduced, full stem"

ROWS = (
    *(
        row
        for budget in ("3k", "6k", "12k", "25k", "50k")
        for row in (
            Row(WRN_16_1, "reduced", budget, reduced),
            Row(WRN_16_1, FULL_STEM, budget, reduced, {"full_stem": True}),
            *(Row(WRN_16_1, generator, budget, compressed, generating(generator, budget)) for generator in GENERATORS),
        )
    ),
    *(
        Row(WRN_16_1, generator, budget, compressed, options)
        for generator in GENERATORS
        for budget, options in (("100%", generating(generator, "100%")), ("200%", {"combine": generator}))
    ),
    *(Row(WideNetwork(16, width), "dense", "", dense) for width in (0.25, 0.5, 1, 2)),
)

TABLE = Table(
    name="error_against_parameters",
    title="Error against parameters",
    source="Plummer et al. 2022, section 4",
    expectation=(
        "WRN-16-1 with shared parameters from a fiftieth of its own number to twice that, against the reduced "
        "baseline, whose first convolution is thinner too or stays whole, and against dense networks of several "
        "widths. Shared parameters are expected to be ahead of a thinner network at small budgets, and at the "
        "network's own number of parameters and above on par with it or ahead."
    ),
    rows=ROWS,
    claims=(
        *(
            Claim(f"Sharing with `{generator}` is ahead of a thinner network{stem}", pairs(ROWS, generator, thin))
            for generator in GENERATORS
            for stem, thin in (("", "reduced"), (" with a full stem", FULL_STEM))
        ),
        *(
            Claim(
                f"Sharing with `{generator}` is on par with the dense network or ahead",
                tuple((f"{WRN_16_1}/{generator}/{budget}", f"{WRN_16_1}/dense/") for budget in ("100%", "200%")),
            )
            for generator in GENERATORS
        ),
    ),
    line=("method",),
)
