"""Vision transformers under AdamW, at their own size and below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.networks import OtherNetwork, compressed, dense, reduced
from benchmarks.row import Row
from benchmarks.table import Table, pairs
from benchmarks.task import Task

NETWORK = OtherNetwork(
    "ViT-64", "vit", {"img_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 6, "num_heads": 4, "mlp_ratio": 4.0}
)
BUDGETS = ("200%", "100%", "50%", "25%", "10%")
DENSE, THIN, SHARED, TWO, RING = "dense", "reduced", "wavg", "wavg, two templates", "ring"

# The table vision_transformer_rates is for choosing the rates.
RATES = {DENSE: 0.002, THIN: 0.002, SHARED: 0.002, TWO: 0.002, RING: 0.002}


def with_adamw(task: Task) -> Task:
    """Train on clothes by AdamW, three times through the training images."""
    if task.data != "fashion_mnist":
        return task
    recipe = replace(task.recipe, epochs=3, optimizer="adamw", weight_decay=0.05)
    return replace(task, recipe=recipe, options={"train": 12_000})


def _compressed(method: str, budget: str, **options: Any) -> Row:
    return Row(NETWORK, method, budget, compressed, options, {"learning_rate": RATES[method]})


ROWS = (
    Row(NETWORK, DENSE, "", dense, recipe={"learning_rate": RATES[DENSE]}),
    *(_compressed(TWO, budget, max_templates=2) for budget in ("200%", "100%")),
    *(_compressed(SHARED, budget) for budget in BUDGETS),
    *(_compressed(RING, budget, combine="ring") for budget in BUDGETS[2:]),
    *(Row(NETWORK, THIN, budget, reduced, recipe={"learning_rate": RATES[THIN]}) for budget in BUDGETS[2:]),
)

TABLE = Table(
    name="vision_transformers",
    title="Vision transformers under AdamW",
    source="Our own",
    expectation=(
        "A ViT with 305,000 parameters, 16 patches and 6 layers, trained by AdamW. Each method has one learning rate, "
        "which was chosen on validation images. At the network's own size every weight has entries of its own by "
        "default. *Two templates* mixes each weight from two, and every entry then serves two weights; at twice the "
        "size it serves one with two templates and two by default, with four. At its own size and above, the network "
        "is expected to be on par with the dense one, and at smaller budgets ahead of a thinner one."
    ),
    rows=ROWS,
    claims=(
        Claim(
            "A ViT at its own size or above is on par with the dense one",
            tuple((f"{NETWORK}/{SHARED}/{budget}", f"{NETWORK}/{DENSE}/") for budget in BUDGETS[:2]),
        ),
        Claim("The default is on par with two templates or ahead", pairs(ROWS, SHARED, TWO)),
        Claim("Sharing with `wavg` is ahead of a thinner ViT", pairs(ROWS, SHARED, THIN)),
        Claim("Sharing with a ring is ahead of a thinner ViT", pairs(ROWS, RING, THIN)),
    ),
    adapt=with_adamw,
    line=("method",),
)
