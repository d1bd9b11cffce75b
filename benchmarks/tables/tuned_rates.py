"""A wide residual network, a thinner one and a compressed one, each at its best rate of SGD."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, compressed, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs

BUDGET = "12k"

# The table sgd_rates is for choosing them.
ROWS = (
    Row(WRN_16_1, "reduced", BUDGET, reduced, recipe={"learning_rate": 0.2}),
    Row(WRN_16_1, "compressed", BUDGET, compressed, recipe={"learning_rate": 0.4}),
    Row(WRN_16_1, "compressed, rate 0.1", BUDGET, compressed, recipe={"learning_rate": 0.1}),
)

TABLE = Table(
    name="tuned_rates",
    title="At rates of their own",
    source="Our own",
    expectation=(
        "WRN-16-1 with 7% of its parameters, and a thinner network of as many, each at the rate of SGD that is best on "
        "validation images: 0.4 for shared parameters, 0.2 for the thinner network. Shared parameters are expected to "
        "be ahead, and to gain from the larger rate."
    ),
    rows=ROWS,
    claims=(
        Claim("Shared parameters are ahead of a thinner network", pairs(ROWS, "compressed", "reduced")),
        Claim("So they are at a rate of 0.1", pairs(ROWS, "compressed, rate 0.1", "reduced")),
        Claim("Shared parameters gain from a larger rate", pairs(ROWS, "compressed", "compressed, rate 0.1")),
    ),
    adapt=quick,
)
