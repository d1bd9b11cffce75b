"""Hypernetworks against shared templates."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.networks import WRN_16_1, compressed, dense, generating, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs

GENERATORS = ("hypernetwork", "wavg", "emb")

ROWS = (
    *(
        row
        for budget in ("12k", "25k", "50k", "100%")
        for row in (
            Row(WRN_16_1, "reduced", budget, reduced),
            *(Row(WRN_16_1, generator, budget, compressed, generating(generator, budget)) for generator in GENERATORS),
        )
    ),
    Row(WRN_16_1, "dense", "", dense),
)

TABLE = Table(
    name="hypernetworks",
    title="Hypernetworks",
    source="Plummer et al. 2022, table 11; Ha, Dai and Le 2016, section 3.1",
    expectation=(
        "Weights from a network of two layers and an embedding per block of each layer, against templates and the "
        "reduced baseline. Templates are expected to be ahead."
    ),
    rows=ROWS,
    claims=(
        Claim("Learned coefficients are ahead of a hypernetwork", pairs(ROWS, "wavg", "hypernetwork")),
        Claim("Coefficients from an embedding are ahead of a hypernetwork", pairs(ROWS, "emb", "hypernetwork")),
    ),
    line=("method",),
)
