"""Ensembles of networks that share one set of SuperWeights."""

from __future__ import annotations

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.families import EnsembleNetwork, FamilyClassification, learned_alone, widened
from benchmarks.experiments.networks import WideNetwork, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs

# The paper's WRN-28-[7, 4] and WRN-16-[7, 4], at a smaller size.
FAMILY = EnsembleNetwork(tuple(WideNetwork(depth, width) for depth, width in ((16, 1), (16, 0.5), (10, 1), (10, 0.5))))
BUDGETS = ("83%", "50%")

ROWS = (
    Row(FAMILY, "separate networks", "", dense),
    *(
        row
        for budget in BUDGETS
        for row in (
            Row(FAMILY, "family", budget, compressed, {"combine": "superweights", "exclude": ["members.*.head"]}),
            Row(FAMILY, "one network", budget, widened),
            Row(FAMILY, "one network, learned groups", budget, learned_alone, {"num_groups": 4}),
        )
    ),
)

TABLE = Table(
    name="families",
    title="Families",
    source="Teterwak et al. 2024, section 4",
    expectation=(
        "Four networks of two depths and two widths that share SuperWeights, all but the classifiers, in a budget that "
        "is a share of their separate parameters, against an ensemble of the separate networks; one network of the "
        "deepest member's depth, as wide as the same budget allows; and the deepest member alone, its weights shared "
        "in groups that are learned by K-means at the same budget. Predictions are averages of probabilities. The "
        "family is expected to be ahead of one network at each budget, and at 83% not to be behind the separate "
        "networks; the paper has it ahead of them. MACs are those of one sample through all networks."
    ),
    rows=ROWS,
    claims=(
        Claim(
            "A family is ahead of one network in learned groups", pairs(ROWS, "family", "one network, learned groups")
        ),
        Claim("A family is ahead of one network of as many parameters", pairs(ROWS, "family", "one network")),
        Claim(
            "A family at 83% is on par with the separate networks or ahead",
            ((f"{FAMILY}/family/83%", f"{FAMILY}/separate networks/"),),
        ),
    ),
    experiment=FamilyClassification(),
    adapt=quick,
)
