"""Generators against the thinner network over budgets."""

from __future__ import annotations

from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, compressed, dense, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs

GENERATORS = ("rr", "avg", "wavg", "emb")


def _options(generator: str) -> dict[str, Any]:
    # With one template, as by default up to the network's own size, all of them are round robin.
    return {"combine": generator} if generator == "rr" else {"combine": generator, "max_templates": 2}


ROWS = (
    *(
        row
        for budget in ("12k", "25k", "50k", "75%")
        for row in (
            Row(WRN_16_1, "reduced", budget, reduced),
            *(Row(WRN_16_1, generator, budget, compressed, _options(generator)) for generator in GENERATORS),
        )
    ),
    Row(WRN_16_1, "dense", "", dense),
)

TABLE = Table(
    name="generators",
    title="Weight generation",
    source="Plummer et al. 2022, table 8",
    expectation=(
        "Round robin, and two templates for each weight in their plain mean, with learned coefficients, and with "
        "coefficients from an embedding, against the reduced baseline. Every form of sharing is expected to be ahead "
        "of the thinner network of its budget, and learned coefficients to be on par with fixed ones or ahead."
    ),
    rows=ROWS,
    claims=(
        *(
            Claim(f"Sharing with `{generator}` is ahead of a thinner network", pairs(ROWS, generator, "reduced"))
            for generator in GENERATORS
        ),
        Claim("Learned coefficients are on par with round robin or ahead", pairs(ROWS, "wavg", "rr")),
        Claim("Learned coefficients are on par with the plain mean or ahead", pairs(ROWS, "wavg", "avg")),
    ),
    line=("method",),
    adapt=quick,
)
