"""A trained adapter of a language model, made smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.adapters import RANK, unadapted
from benchmarks.experiments.smaller_adapters import (
    CALIBRATION,
    SmallerAdapters,
    cut,
    fitted,
    trained_small,
    truncated,
    whole,
)
from benchmarks.row import Build, Row
from benchmarks.table import Table, pairs
from benchmarks.tables.adapters import BASE, DEFAULT, NETWORK, RATES, WHOLE

FIT, CALIBRATED, SVD, MAGNITUDE, SCRATCH = "fit", "fit, calibrated", "SVD", "magnitude", "trained at the budget"

_RECIPE: Mapping[str, Any] = {"learning_rate": RATES[WHOLE][""]}

_WAYS: dict[str, tuple[Build, Mapping[str, Any]]] = {
    FIT: (fitted, {}),
    CALIBRATED: (fitted, {"calibrate": True}),
    SVD: (truncated, {}),
    MAGNITUDE: (cut, {}),
    SCRATCH: (trained_small, {"learning_rate": RATES[DEFAULT]["2k"]}),
}

ROWS = (
    Row(NETWORK, BASE, "", unadapted, {}, _RECIPE),
    Row(NETWORK, WHOLE, "", whole, {}, _RECIPE),
    *(
        Row(NETWORK, way, budget, build, options, _RECIPE)
        for budget in ("25%", "10%", "2%")
        for way, (build, options) in _WAYS.items()
    ),
)

TABLE = Table(
    name="adapters_made_smaller",
    title="A trained adapter made smaller",
    source="Our own",
    expectation=(
        f"LoRA of rank {RANK} on every matrix is trained, and then made smaller without further training. Shared "
        "parameters are fitted to its matrices, with equal weight on all entries or calibrated on "
        f"{CALIBRATION} windows of the training text. SVD keeps the singular values of its updates that are the "
        "largest for their number of parameters. Magnitude keeps the largest entries of its matrices, whose places are "
        "not counted. The last row of each budget trains as many shared parameters from scratch, for as many steps. "
        "The error is that of the updates B A, relative to their norm. A trained adapter's matrices have little in "
        "common, so training at the budget is expected to be ahead of all that is done afterwards."
    ),
    rows=ROWS,
    claims=(
        *(
            Claim(f"Training at the budget is ahead of `{way}` afterwards", pairs(ROWS, SCRATCH, way))
            for way in (FIT, CALIBRATED, SVD, MAGNITUDE)
        ),
        Claim("A fit is ahead of SVD", pairs(ROWS, FIT, SVD)),
        Claim("Calibration helps", pairs(ROWS, CALIBRATED, FIT)),
        Claim("A fit is ahead of no adapter", pairs(ROWS, FIT, BASE)),
    ),
    experiment=SmallerAdapters(),
)
