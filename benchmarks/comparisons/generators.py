"""Generators against the thinner network over budgets."""

from __future__ import annotations

from benchmarks.comparison import Comparison, pairs
from benchmarks.experiments.networks import WRN_16_1, compressed, dense, reduced
from benchmarks.ordering import Ordering
from benchmarks.row import Row

GENERATORS = ("rr", "avg", "wavg", "emb")

ROWS = (
    *(
        row
        for budget in ("12k", "25k", "50k", "75%")
        for row in (
            Row(WRN_16_1, "reduced", budget, reduced),
            *(Row(WRN_16_1, generator, budget, compressed, {"combine": generator}) for generator in GENERATORS),
        )
    ),
    Row(WRN_16_1, "dense", "", dense),
)

COMPARISON = Comparison(
    name="generators",
    title="Weight generation",
    source="Plummer et al. 2022, table 8",
    expectation=(
        "Round robin, the plain mean, learned coefficients and coefficients from an embedding against the reduced "
        "baseline. Every form of sharing is expected to be ahead of the thinner network of its budget, and learned "
        "coefficients to be on par with fixed ones or ahead."
    ),
    rows=ROWS,
    orderings=(
        *(
            Ordering(f"Sharing with `{generator}` is ahead of a thinner network", pairs(ROWS, generator, "reduced"))
            for generator in GENERATORS
        ),
        Ordering("Learned coefficients are on par with round robin or ahead", pairs(ROWS, "wavg", "rr")),
        Ordering("Learned coefficients are on par with the plain mean or ahead", pairs(ROWS, "wavg", "avg")),
    ),
    line=("method",),
)
