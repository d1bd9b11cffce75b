"""Pruning from a plain pretrained network, and from one that was pretrained with shared parameters."""

from __future__ import annotations

from typing import Any

from benchmarks.claims import Claim
from benchmarks.experiments.classification import quick
from benchmarks.experiments.networks import Network, OtherNetwork, compressed, dense
from benchmarks.experiments.pruning import pruned
from benchmarks.row import Row
from benchmarks.table import Table, pairs

# Shares of filters that HRank's authors drop, by convolution (Lin et al. 2020, published with their code). For
# GoogLeNet there is no list by convolution.
RATES: dict[Network, float | list[float]] = {
    OtherNetwork("VGG-16-0.25", "vgg", {"depth": 16, "width": 0.25}): [0.95] + [0.5] * 6 + [0.9] * 4 + [0.8] * 2,
    OtherNetwork("ResNet-56-0.25", "resnet", {"depth": 56, "width": 0.25, "projection": True}): (
        [0.1] + [0.6] * 35 + [0.0] * 2 + [0.6] * 6 + [0.4] * 3 + [0.1, 0.4] * 4
    ),
    OtherNetwork("ResNet-110-0.25", "resnet", {"depth": 110, "width": 0.25, "projection": True}): ([0.1] + [0.4] * 108),
    OtherNetwork("DenseNet-40-6", "densenet", {"depth": 40, "growth": 6, "compression": 1.0}): (
        [0.0] + ([0.1] * 6 + [0.7] * 6 + [0.0]) * 2 + [0.1] * 6 + [0.7] * 5 + [0.0]
    ),
    OtherNetwork("GoogLeNet-0.125", "googlenet", {"width": 0.125}): 0.5,
}
PRETRAINING = "4x"
WAYS: dict[str, dict[str, Any]] = {
    "HRank": {},
    "shared, HRank": {"pretraining_budget": PRETRAINING},
    "shared, rescaled, HRank": {"pretraining_budget": PRETRAINING, "rescale": True},
    "magnitude": {"importance": "magnitude"},
    "random": {"importance": "random"},
}

ROWS = tuple(
    row
    for network, rates in RATES.items()
    for row in (
        Row(network, "whole", "", dense),
        Row(network, "whole, shared", PRETRAINING, compressed),
        *(Row(network, way, "", pruned, {**options, "rates": rates}) for way, options in WAYS.items()),
    )
)

TABLE = Table(
    name="pruning",
    title="Pruning",
    source="Plummer et al. 2022, table 4; Lin et al. 2020, tables 1 to 4",
    expectation=(
        "Networks that are pretrained, rid of filters, and fine-tuned as they were pretrained. Filters of low rank go "
        "at the published rates, from a plain network and from one that was pretrained with four times as many "
        "parameters that its layers share, and materialized; and as many filters by magnitude and by chance. On images "
        "of 8 pixels the last stages of VGG see a single one, where maps have no rank and filters stay. Pretraining "
        "with shared parameters is expected to be ahead, and ranks to be ahead of both other choices. Shared weights "
        "come out longer, and fine-tuning turns long weights slowly in front of a batch norm: the rescaled rows undo "
        "that."
    ),
    rows=ROWS,
    claims=(
        Claim("Pretraining with shared parameters is ahead", pairs(ROWS, "shared, HRank", "HRank")),
        Claim("Rescaled, it is ahead", pairs(ROWS, "shared, rescaled, HRank", "HRank")),
        Claim("Ranks are ahead of magnitudes", pairs(ROWS, "HRank", "magnitude")),
        Claim("Ranks are ahead of chance", pairs(ROWS, "HRank", "random")),
    ),
    adapt=quick,
)
