"""Making a trained wide residual network smaller."""

from __future__ import annotations

from benchmarks.experiments.classification import BEFORE, ERROR, ImageClassification, quick
from benchmarks.experiments.networks import WRN_16_1
from benchmarks.experiments.trained import EXPECTATION, SOURCE, claims, rows
from benchmarks.table import Table

ROWS = rows(WRN_16_1, {"epochs": 4, "learning_rate": 0.05}, {"epochs": 12, "learning_rate": 0.05})

TABLE = Table(
    name="trained_images",
    title="A trained wide residual network made smaller",
    source=SOURCE,
    expectation=EXPECTATION,
    rows=ROWS,
    claims=claims(ROWS),
    experiment=ImageClassification((ERROR, BEFORE)),
    adapt=quick,
)
