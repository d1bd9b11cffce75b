"""Finding the sentences of an image, and the image of a sentence, within a budget."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.retrieval import Retrieval
from benchmarks.experiments.two_branch import CELLS, EmbNet, rows
from benchmarks.table import Table, pairs

ROWS = tuple(row for cell in CELLS for row in rows(EmbNet(cell)))

TABLE = Table(
    name="retrieval",
    title="Image-sentence retrieval",
    source="Plummer et al. 2022, table 1",
    expectation=(
        "EmbNet (Wang et al. 2016), which embeds images and sentences so that those that belong together are close: "
        "with its own parameters, thinner within a budget (`reduced`), and with shared ones within the same budget "
        "(`compressed`). Recall at 1, 5 and 10 of the sentences of an image and of the image of a sentence, and the "
        "mean of the six. The papers read features of a network trained on ImageNet; here small convolutions are "
        "trained along, and counted. Sharing is expected to be ahead of a thinner network. The data set `emoji` has "
        "real pictures with short names, 2,707 for training."
    ),
    rows=ROWS,
    claims=(Claim("Shared parameters are ahead of a thinner network", pairs(ROWS, "compressed", "reduced")),),
    experiment=Retrieval(),
)
