"""How a weight is made of templates where the store has room for several."""

from __future__ import annotations

from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import WRN_16_1, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table, pairs

MAPPINGS, GENERATORS = ("single", "shape"), ("wavg", "emb", "avg", "rr")


def _allowed(generator: str, budget: str) -> bool:
    # Round robin gives each weight one template, so it cannot use a store of more entries than the weights have.
    return generator != "rr" or budget != "200%"


def _options(generator: str, mapping: str, budget: str) -> dict[str, Any]:
    # With one template, as by default up to the network's own size, all of them are round robin.
    several = {} if budget == "200%" else {"max_templates": 2}
    return {"combine": generator, "mapping": mapping, **several}


ROWS = (
    Row(WRN_16_1, "dense", "", dense),
    *(
        Row(WRN_16_1, f"{generator}, {mapping}", budget, compressed, _options(generator, mapping, budget))
        for budget in ("50%", "100%", "200%")
        for mapping in MAPPINGS
        for generator in GENERATORS
        if _allowed(generator, budget)
    ),
)


TABLE = Table(
    name="downsampling",
    title="Parameter downsampling",
    source="Plummer et al. 2022, table 5",
    expectation=(
        "Weights as weighted averages of templates, with coefficients that are learned (`wavg`) or come from an "
        "embedding of the layer (`emb`), as the plain mean (`avg`), or as one template in turn (`rr`), with one store "
        "for all weights or one per shape. Learned coefficients are expected to be ahead of fixed ones."
    ),
    rows=ROWS,
    claims=tuple(
        Claim(f"{mapping}: {claim}", pairs(ROWS, f"{first}, {mapping}", f"{second}, {mapping}"))
        for mapping in MAPPINGS
        for claim, first, second in (
            ("learned coefficients are ahead of the plain mean", "wavg", "avg"),
            ("learned coefficients are ahead of round robin", "wavg", "rr"),
            ("coefficients from an embedding are ahead of the plain mean", "emb", "avg"),
            ("coefficients from an embedding are ahead of round robin", "emb", "rr"),
            ("learned coefficients are on par with those from an embedding or ahead", "wavg", "emb"),
        )
    ),
    adapt=quick,
)
