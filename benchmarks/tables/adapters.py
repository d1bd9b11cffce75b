"""Adapters of a language model under budgets of trained parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.adapters import (
    ALL,
    ATTENTION,
    QUERY_VALUE,
    RANK,
    Adapters,
    adapted,
    compressed_lora,
    unadapted,
)
from benchmarks.experiments.golf import Llama
from benchmarks.row import Row
from benchmarks.table import Table

LAYERS = 4
NETWORK = Llama(LAYERS, 96, 256, LAYERS)
BUDGETS = ("500", "2k", "10k")

LORA, LORA_ALL, WHOLE, BASE = "LoRA", "LoRA, every matrix", "LoRA, whole", "no adapter"
VERA, VB_LORA, UNI_LORA, LOKR = "VeRA", "VB-LoRA", "Uni-LoRA", "LoKr"
DEFAULT, RING, SOFTMAX = "compressed", "compressed, ring", "compressed, softmax"

# The rate of each method at each budget, which is empty for an adapter of any size. The table adapters_rates is for
# choosing them.
RATES: dict[str, dict[str, float]] = {
    WHOLE: {"": 0.02},
    LORA: {"500": 0.16, "2k": 0.08, "10k": 0.08},
    VERA: {"500": 0.32, "2k": 0.32, "10k": 0.32},
    VB_LORA: {"500": 0.16, "2k": 0.16, "10k": 0.08},
    UNI_LORA: {"500": 0.32, "2k": 0.16, "10k": 0.08},
    LOKR: {"500": 0.16, "2k": 0.08, "10k": 0.04},
    DEFAULT: {"500": 0.08, "2k": 0.08, "10k": 0.08},
    RING: {"500": 0.16, "2k": 0.08, "10k": 0.08},
}
_RATES_OF = {SOFTMAX: DEFAULT}  # and every kind of LoRA has one rate


def _lora(rank: int, targets: list[str], **options: Any) -> dict[str, Any]:
    return {"r": rank, "lora_alpha": rank, "target_modules": targets, **options}


def _vera(rank: int, targets: list[str], **options: Any) -> dict[str, Any]:
    """Store the seed of the projections in place of the projections."""
    return {"config": "VeraConfig", "r": rank, "target_modules": targets, "save_projection": False, **options}


def _vb_lora(vectors: int, targets: list[str]) -> dict[str, Any]:
    """Store the largest logits alone, as VB-LoRA's authors do. Vectors are as long as the matrices allow."""
    sizes = {"num_vectors": vectors, "vector_length": 32, "r": 1}
    return {"config": "VBLoRAConfig", **sizes, "target_modules": targets, "save_only_topk_weights": True}


def _lokr(rank: int, targets: list[str], **options: Any) -> dict[str, Any]:
    return {"config": "LoKrConfig", "r": rank, "alpha": rank, "target_modules": targets, **options}


def _uni_lora(length: int) -> dict[str, Any]:
    return {"config": "UniLoraConfig", "theta_d_length": length, "r": RANK, "target_modules": ALL}


_LAST: dict[str, Any] = {"layers_to_transform": [LAYERS - 1]}

# For each budget, the settings of each method that come nearest to it from below.
PEFT: dict[str, dict[str, dict[str, Any]]] = {
    "500": {
        LORA: _lora(1, QUERY_VALUE, **_LAST),
        VERA: _vera(29, QUERY_VALUE, layers_to_transform=[LAYERS - 2, LAYERS - 1]),
        VB_LORA: _vb_lora(6, QUERY_VALUE),
        UNI_LORA: _uni_lora(500),
        LOKR: _lokr(1, ["q_proj", "v_proj", "o_proj"], decompose_both=True),
    },
    "2k": {
        LORA: _lora(1, QUERY_VALUE),
        LORA_ALL: _lora(1, ALL, **_LAST),
        VERA: _vera(154, QUERY_VALUE),
        VB_LORA: _vb_lora(25, QUERY_VALUE),
        UNI_LORA: _uni_lora(2000),
        LOKR: _lokr(3, ATTENTION, decompose_both=True),
    },
    "10k": {
        LORA: _lora(6, QUERY_VALUE),
        LORA_ALL: _lora(1, ALL),
        VERA: _vera(215, ALL),
        VB_LORA: _vb_lora(38, ALL),
        UNI_LORA: _uni_lora(10000),
        LOKR: _lokr(5, ALL, decompose_factor=4),
    },
}

# The generators, and the budgets that they can meet.
COMPRESSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    DEFAULT: ({}, BUDGETS),
    RING: ({"combine": "ring"}, BUDGETS),
    SOFTMAX: ({"combine": "softmax"}, ("2k",)),
}


def _recipe(method: str, budget: str) -> Mapping[str, Any]:
    return {"learning_rate": RATES[_RATES_OF.get(method, method if method in RATES else LORA)][budget]}


ROWS = (
    Row(NETWORK, BASE, "", unadapted),
    Row(NETWORK, WHOLE, "", adapted, _lora(RANK, ALL), _recipe(WHOLE, "")),
    *(
        row
        for budget in BUDGETS
        for row in (
            *(Row(NETWORK, name, budget, adapted, each, _recipe(name, budget)) for name, each in PEFT[budget].items()),
            *(
                Row(NETWORK, name, budget, compressed_lora, options, _recipe(name, budget))
                for name, (options, budgets) in COMPRESSED.items()
                if budget in budgets
            ),
        )
    ),
)


def _ahead(first: str, second: str) -> tuple[tuple[str, str], ...]:
    """Pair the keys of two methods' rows for each budget that both have."""
    of = {(row.method, row.budget): row.key for row in ROWS}
    return tuple(
        (of[first, budget], of[second, budget])
        for budget in BUDGETS
        if (first, budget) in of and (second, budget) in of
    )


TABLE = Table(
    name="adapters",
    title="Adapters under a budget",
    source="Rivals are those of PEFT's own comparison of adapters, at small sizes",
    expectation=(
        "A causal transformer over bytes is trained on a dictionary, and adapted to another kind of text with at most "
        "500, 2,000 or 10,000 trained parameters. What is loaded from the adapter's file is scored in bits per byte of "
        "held-out text. LoRA takes the largest rank that fits: on the query and value projections (of the last layer "
        "alone at 500), or on every matrix (of the last layer alone at 2,000). VeRA, VB-LoRA and LoKr take the sizes "
        "and the matrices that come nearest to the budget from below. Uni-LoRA and *compressed* LoRA have "
        f"rank {RANK} on every matrix, and make all of it from as many parameters as the budget says; their rows "
        "differ in the generator. The default and `emb` are one and the same here, since each matrix has a single "
        "template. The softmax meets one of the budgets alone. Each method has a learning rate at each budget, which "
        "was chosen on other text. All seeds adapt the same base model. Compressed LoRA is expected to be on par with "
        "Uni-LoRA or ahead, and ahead of the others, at each budget."
    ),
    rows=ROWS,
    claims=(
        *(
            Claim(f"`{way}` is on par with Uni-LoRA or ahead", _ahead(way, UNI_LORA))
            for way in (DEFAULT, RING, SOFTMAX)
        ),
        *(
            Claim(f"`{way}` is ahead of {other}", _ahead(way, other))
            for way in (DEFAULT, RING)
            for other in (LORA, LORA_ALL, VERA, VB_LORA, LOKR)
        ),
    ),
    experiment=Adapters(),
)
