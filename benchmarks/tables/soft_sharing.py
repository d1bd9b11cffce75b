"""Soft sharing: layers of a stage that mix the same templates."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WideNetwork, dense, soft_shared
from benchmarks.row import Row
from benchmarks.table import Table, pairs

NETWORKS = (WideNetwork(28, 0.25, stem=8), WideNetwork(28, 0.5, stem=8))
CUTOUT = {"cutout": 4}  # half of an image's side, as 16 pixels are of CIFAR's
DROPOUT = {"dropout": 0.3}

ROWS = tuple(
    row
    for network in NETWORKS
    for row in (
        Row(network, "WRN", "", dense),
        Row(network, "SWRN", "", soft_shared),
        Row(network, "SWRN, k = 2", "", soft_shared, {"templates": 2}),
        Row(network, "WRN, dropout", "", dense, DROPOUT),
        Row(network, "SWRN, k = 2, dropout", "", soft_shared, {"templates": 2, **DROPOUT}),
        Row(network, "WRN, cutout", "", dense, recipe=CUTOUT),
        Row(network, "SWRN, k = 2, cutout", "", soft_shared, {"templates": 2}, CUTOUT),
    )
)

TABLE = Table(
    name="soft_sharing",
    title="Soft sharing",
    source="Savarese and Maire 2019, CIFAR rows of the poster",
    expectation=(
        "Wide residual networks of 28 layers, plain (WRN) and with layers that mix as many templates as there are "
        "layers in each group (SWRN), or two; dropout of 0.3 between the convolutions of a block; and cutout of half "
        "an image's side. As many templates as layers are expected to be ahead of plain layers, and two not to be "
        "behind them, at half of the parameters."
    ),
    rows=ROWS,
    claims=(
        Claim("As many templates as layers are ahead of plain layers", pairs(ROWS, "SWRN", "WRN")),
        Claim("Two templates are on par with plain layers or ahead", pairs(ROWS, "SWRN, k = 2", "WRN")),
        Claim("So they are with dropout", pairs(ROWS, "SWRN, k = 2, dropout", "WRN, dropout")),
        Claim("So they are with cutout", pairs(ROWS, "SWRN, k = 2, cutout", "WRN, cutout")),
        Claim(
            "Wider, two templates are ahead of thinner plain layers",
            ((f"{NETWORKS[1]}/SWRN, k = 2/", f"{NETWORKS[0]}/WRN/"),),
        ),
    ),
    adapt=quick,
    line=("method",),
)
