"""Language models in files of 100 kB, 300 kB and 1 MB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.golf import Golf, Llama, shared, whole
from benchmarks.row import Row
from benchmarks.table import Table

LAYERS = 4

# For each file the network that fills it, one of twice as many weights, and one of four times as many. The feed-forward
# layers are as wide as the file allows.
NETWORKS = {
    "100kB": (Llama(LAYERS, 40, 122, LAYERS), Llama(LAYERS, 56, 165, LAYERS), Llama(LAYERS, 80, 204, LAYERS)),
    "300kB": (Llama(LAYERS, 72, 215, LAYERS), Llama(LAYERS, 104, 280, LAYERS), Llama(LAYERS, 144, 390, LAYERS)),
    "1MB": (Llama(LAYERS, 144, 345, LAYERS), Llama(LAYERS, 192, 540, LAYERS), Llama(LAYERS, 272, 736, LAYERS)),
}

# For 6 and 4 bits, the network that fills 100 kB and one of twice as many weights.
FEWER_BITS = {
    "int6": (Llama(LAYERS, 48, 131, LAYERS), Llama(LAYERS, 64, 219, LAYERS)),
    "int4": (Llama(LAYERS, 56, 176, LAYERS), Llama(LAYERS, 80, 256, LAYERS)),
}

# The table golf_rates is for choosing the rates. The thin network takes about as long for LONGER_STEPS as those that
# share for STEPS.
RATES = {"100kB": 0.008, "300kB": 0.005, "1MB": 0.003}
STEPS = 1500
LONGER_STEPS = {"100kB": 2050, "300kB": 2150, "1MB": 2250}

# Windows of text in a step, so that each training reads about 8 bytes for each parameter. The recipe has 4.
BATCHES: dict[str, dict[str, int]] = {"100kB": {}, "300kB": {"batch_size": 12}, "1MB": {"batch_size": 40}}

_WORDS = {"*embed_tokens*": "words"}
_KINDS = {f"*{kind}_proj*": kind for kind in ("q", "k", "v", "gate", "up", "down")}


def _apart(layers: int) -> dict[str, str]:
    """Give each output projection a group of its own: a group of one weight shares with no other."""
    return {f"*layers.{layer}.self_attn.o_proj*": f"output{layer}" for layer in range(layers)}


REST: dict[str, Any] = {"mapping": {**_WORDS, "*": "rest"}}
KINDS: dict[str, Any] = {"mapping": {**_WORDS, **_KINDS, "*o_proj*": "o"}, "max_templates": 2}
APART: dict[str, Any] = {"mapping": {**_WORDS, **_KINDS, **_apart(LAYERS)}, "max_templates": 2}
DEPTH = {"by_depth": True}

THIN, TWO, ONE = "thin", "two blocks repeated", "one block repeated"
LONGER = "thin, equal time"
CONTEST = "by kind and depth, outputs apart"

# The ways to compress a network: those that are tried on every file, and the others.
WAYS: dict[str, dict[str, Any]] = {
    CONTEST: {**APART, **DEPTH},
    "by kind and depth": {**KINDS, **DEPTH},
    "ring": {**REST, "combine": "ring"},
    "default": {},
}
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "default, embedding apart": REST,
    "wavg": {**REST, "max_templates": 2},
    "emb": {**REST, "combine": "emb", "max_templates": 2},
    "superweights": {**REST, "combine": "superweights"},
    "hypernetwork": {**REST, "combine": "hypernetwork"},
    "by kind": KINDS,
    "outputs apart": APART,
}


def _rows(budget: str) -> tuple[Row, ...]:
    thin, twice, wide = NETWORKS[budget]
    recipe: dict[str, Any] = {"steps": STEPS, "learning_rate": RATES[budget], **BATCHES[budget]}

    def compressed(ways: Mapping[str, dict[str, Any]], network: Llama = twice) -> tuple[Row, ...]:
        return tuple(Row(network, way, budget, shared, options, recipe) for way, options in ways.items())

    rows = (
        Row(thin, THIN, budget, whole, recipe=recipe),
        *compressed(WAYS),
        Row(replace(twice, blocks=2), TWO, budget, whole, recipe=recipe),
        Row(replace(wide, blocks=1), ONE, budget, whole, recipe=recipe),
        Row(thin, LONGER, budget, whole, recipe={**recipe, "steps": LONGER_STEPS[budget]}),
    )
    if budget != "100kB":
        return rows
    deep = replace(twice, layers=2 * LAYERS, blocks=2 * LAYERS)
    soft = {**KINDS, "coefficients": "orthogonal"}
    return (
        *rows,
        Row(Llama(3, 48, 127, 3), f"{THIN}, 3 layers", budget, whole, recipe=recipe),
        *compressed(OTHER_WAYS),
        Row(twice, "soft sharing, folded", budget, shared, soft, {**recipe, "regulariser": 0.01}),
        *(
            row
            for store, (small, large) in FEWER_BITS.items()
            for row in (
                Row(small, f"{THIN}, {store}", budget, whole, {"store": store}, recipe),
                *compressed({f"{CONTEST}, {store}": {**WAYS[CONTEST], "store": store}}, large),
            )
        ),
        *compressed({"ring, wide": WAYS["ring"]}, wide),
        *compressed({"by kind and depth, 8 layers": WAYS["by kind and depth"]}, deep),
    )


ROWS = tuple(row for budget in NETWORKS for row in _rows(budget))


def _ahead(first: str, second: str) -> tuple[tuple[str, str], ...]:
    """Pair the keys of two methods' rows for each file that has both."""
    of = {(row.method, row.budget): row.key for row in ROWS}
    return tuple(
        (of[first, budget], of[second, budget])
        for budget in NETWORKS
        if (first, budget) in of and (second, budget) in of
    )


TABLE = Table(
    name="golf",
    title="Language models in a file",
    source="Parameter Golf (2026), at small sizes",
    expectation=(
        "Causal transformers over bytes in a file of at most 100 kB, 300 kB or 1 MB. Everything in the file counts; "
        "what is loaded from it is scored in bits per byte of held-out text. All matrices are kept in 8 bits, or in "
        "6 or 4 where a row says so, norms in 16, and training rounds as the file does. The *thin* network shares "
        "nothing: its file is that of a compressed model with room for each weight. Wider ones repeat one block "
        "(ALBERT), or two in turn, or share parameters: of all weights (default, ring, wavg, emb, SuperWeights, a "
        "hypernetwork), or of each kind of matrix, two templates for the four layers. The contest's rules are "
        "options: coefficients that start by depth, so that the first layer starts as one template, the last as the "
        "other, and those between as mixtures; output projections that share nothing; and more layers on the same "
        "parameters. All rows of a file have the same number of steps, about 8 bytes of text for each parameter, and "
        "the same rate, which was chosen on other text; at equal time, the thin network takes more steps. The best "
        "shared network is expected to be ahead of the thin one and of repeated blocks in each file."
    ),
    rows=ROWS,
    claims=(
        *(
            Claim(f"`{way}` is ahead of `{other}`", _ahead(way, other))
            for way in (CONTEST, "by kind and depth", "ring", "default")
            for other in (THIN, ONE)
        ),
        Claim(f"`{CONTEST}` is ahead of `{TWO}`", _ahead(CONTEST, TWO)),
        Claim(f"`{CONTEST}` is ahead of the thin network at equal time", _ahead(CONTEST, LONGER)),
        *(
            Claim(
                f"More weights of fewer bits help: {store}",
                (*_ahead(f"{THIN}, {store}", THIN), *_ahead(f"{CONTEST}, {store}", CONTEST)),
            )
            for store in FEWER_BITS
        ),
        Claim(
            f"`{CONTEST}` is ahead of the thin network in as many bits",
            tuple(pair for store in FEWER_BITS for pair in _ahead(f"{CONTEST}, {store}", f"{THIN}, {store}")),
        ),
        Claim("A ring is ahead of the default", _ahead("ring", "default, embedding apart")),
        Claim("An embedding of its own helps", _ahead("default, embedding apart", "default")),
        Claim("Sharing by kind is ahead of sharing with all", _ahead("by kind", "wavg")),
        Claim("A start by depth helps", (*_ahead("by kind and depth", "by kind"), *_ahead(CONTEST, "outputs apart"))),
        Claim("Output projections of their own help", _ahead(CONTEST, "by kind and depth")),
        Claim("More layers on the same parameters help", _ahead("by kind and depth, 8 layers", "by kind and depth")),
    ),
    experiment=Golf(),
)
