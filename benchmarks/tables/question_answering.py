"""ALBERT, whose layers are all the same, against layers that share parameters."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.question_answering import Albert, Answering, Sizes, distinct, learned, repeated, shared
from benchmarks.row import Row
from benchmarks.table import Table, pairs

BASE = Albert("ALBERT-base", small=Sizes(3, 48, 2, 192, 32), full=Sizes(12, 768, 12, 3072, 128))
LARGE = Albert("ALBERT-large", small=Sizes(6, 64, 2, 256, 32), full=Sizes(24, 1024, 16, 4096, 128))

ROLES = {
    "embeddings": "embeddings",
    "encoder.embedding_hidden_mapping_in": "embeddings",
    "*.attention.*": "attention",
    "*.ffn": "into feed-forward",
    "*.ffn_output": "out of feed-forward",
}

ROWS = tuple(
    row
    for network in (BASE, LARGE)
    for row in (
        Row(network, "distinct layers", "", distinct),
        Row(network, "one layer", "", repeated),
        Row(network, "single", "100%", shared, {"mapping": "single"}),
        Row(network, "random", "100%", shared, {"mapping": "random", "num_groups": 4}),
        Row(network, "manual", "100%", shared, {"mapping": ROLES}),
        Row(network, "learned", "100%", learned, {"num_groups": 4}),
    )
)

TABLE = Table(
    name="question_answering",
    title="Question answering",
    source="Plummer et al. 2022, table 2",
    expectation=(
        "ALBERT repeats one layer (`one layer`). Within the same number of parameters, layers can instead share their "
        "parameters: all weights one store, four groups by chance, four by the role of a weight, and four that are "
        "learned in a part of the pretraining. `distinct layers` is the encoder unrolled, in its own size. All are "
        "pretrained by predicting masked tokens and go on to extractive question answering; budgets are relative to "
        "ALBERT's size, and parameters are those of the encoder and of the head that answers. The data set "
        "`python_topics` is made of the texts of Python's `help()`: a sentence with a gap, to be found in a passage "
        "and filled; `perlfaq` has real questions, to be answered by the right one of three answers. "
        "Sharing in learned groups is expected to be ahead of repeating one layer."
    ),
    rows=ROWS,
    claims=(
        Claim("Learned groups are ahead of one layer repeated", pairs(ROWS, "learned", "one layer")),
        Claim("One store is ahead of one layer repeated", pairs(ROWS, "single", "one layer")),
        Claim("Learned groups are on par with those by role or ahead", pairs(ROWS, "learned", "manual")),
        Claim("Learned groups are ahead of those by chance", pairs(ROWS, "learned", "random")),
        Claim("Distinct layers are ahead of one layer repeated", pairs(ROWS, "distinct layers", "one layer")),
    ),
    experiment=Answering(),
)
