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
BUDGETS = ("100%", "50%", "25%", "10%")
DENSE, THIN, SHARED, TWO, RING = "dense", "reduced", "wavg", "wavg, two templates", "ring"
ENDS_APART, BY_SHAPE = "wavg, ends apart", "wavg, by shape"
ENDS = ("patch_embed", "pos_embed", "head")

# The table vision_transformer_rates is for choosing the rates.
RATES = {DENSE: 0.002, THIN: 0.002, SHARED: 0.002, TWO: 0.002, RING: 0.002}


def with_adamw(task: Task) -> Task:
    """Train on clothes by AdamW, three times through the training images."""
    if task.data != "fashion_mnist":
        return task
    recipe = replace(task.recipe, epochs=3, optimizer="adamw", weight_decay=0.05)
    return replace(task, recipe=recipe, options={"train": 12_000})


def _compressed(method: str, budget: str, **options: Any) -> Row:
    rate = RATES[SHARED if method in (ENDS_APART, BY_SHAPE) else method]
    return Row(NETWORK, method, budget, compressed, options, {"learning_rate": rate})


ROWS = (
    Row(NETWORK, DENSE, "", dense, recipe={"learning_rate": RATES[DENSE]}),
    _compressed(TWO, "100%", max_templates=2),
    *(_compressed(SHARED, budget) for budget in BUDGETS),
    _compressed(ENDS_APART, "25%", exclude=ENDS),
    *(_compressed(BY_SHAPE, budget, mapping="shape") for budget in BUDGETS[1:]),
    *(_compressed(RING, budget, combine="ring") for budget in BUDGETS[1:]),
    *(Row(NETWORK, THIN, budget, reduced, recipe={"learning_rate": RATES[THIN]}) for budget in BUDGETS[1:]),
)

TABLE = Table(
    name="vision_transformers",
    title="Vision transformers under AdamW",
    source="Our own",
    expectation=(
        "A ViT with 305,000 parameters, 16 patches and 6 layers, trained by AdamW. Each method has one learning rate, "
        "which was chosen on validation images. At the network's own size every weight has entries of its own by "
        "default. *Two templates* mixes each weight from two, and every entry then serves two weights. With *ends "
        "apart*, the embeddings and the head keep weights of their own; *by shape*, all weights of one shape have one "
        "store. At its own size the network is expected to be on par with the dense one, and at smaller budgets ahead "
        "of a thinner one."
    ),
    rows=ROWS,
    claims=(
        Claim(
            "A ViT at its own size is on par with the dense one",
            ((f"{NETWORK}/{SHARED}/100%", f"{NETWORK}/{DENSE}/"),),
        ),
        Claim("The default is on par with two templates or ahead", pairs(ROWS, SHARED, TWO)),
        Claim("Embeddings and a head of their own help", pairs(ROWS, ENDS_APART, SHARED)),
        Claim("One store for each shape helps", pairs(ROWS, BY_SHAPE, SHARED)),
        Claim("Sharing with `wavg` is ahead of a thinner ViT", pairs(ROWS, SHARED, THIN)),
        Claim("Sharing by shape is ahead of a thinner ViT", pairs(ROWS, BY_SHAPE, THIN)),
        Claim("Sharing with a ring is ahead of a thinner ViT", pairs(ROWS, RING, THIN)),
    ),
    adapt=with_adamw,
    line=("method",),
)
