"""Making a trained BERT smaller."""

from __future__ import annotations

from benchmarks.experiments.classification import BEFORE, ERROR
from benchmarks.experiments.texts import Bert, TextClassification
from benchmarks.experiments.trained import EXPECTATION, SOURCE, claims, rows
from benchmarks.table import Table

ROWS = rows(Bert(4, 64), {"epochs": 2}, {"epochs": 6}, mapping={"*word_embeddings*": "words", "*": "rest"})

TABLE = Table(
    name="trained_text",
    title="A trained BERT made smaller",
    source=SOURCE,
    expectation=EXPECTATION,
    rows=ROWS,
    claims=claims(ROWS),
    experiment=TextClassification((ERROR, BEFORE)),
)
