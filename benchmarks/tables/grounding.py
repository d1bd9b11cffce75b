"""Finding the part of an image that a phrase is about, within a budget."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.grounding import Grounding
from benchmarks.experiments.two_branch import CELLS, SimNet, rows
from benchmarks.table import Table, pairs

ROWS = tuple(row for cell in CELLS for row in rows(SimNet(cell)))

TABLE = Table(
    name="grounding",
    title="Phrase grounding",
    source="Plummer et al. 2022, table 1",
    expectation=(
        "SimNet (Wang et al. 2019), which scores how well a box fits a phrase: with its own parameters, thinner within "
        "a budget (`reduced`), and with shared ones within the same budget (`compressed`). A phrase is found if the "
        "candidate box with the best score and the phrase's box have an intersection over union of 0.5 or more. "
        "Candidates are the boxes of all phrases of the image, the same ones moved and scaled, and random ones. "
        "Sharing is expected to be ahead of a thinner network."
    ),
    rows=ROWS,
    claims=(Claim("Shared parameters are ahead of a thinner network", pairs(ROWS, "compressed", "reduced")),),
    experiment=Grounding(),
)
