"""Deeper and wider networks within one budget."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.claims import Claim
from benchmarks.experiments.networks import Network, WideNetwork, compressed, dense
from benchmarks.row import Row
from benchmarks.table import Table

BUDGET = "25k"
DEEPER = (WideNetwork(10, 1), WideNetwork(16, 1), WideNetwork(22, 1), WideNetwork(28, 1))
WIDER = (WideNetwork(16, 0.5), WideNetwork(16, 1), WideNetwork(16, 2))

ROWS = tuple(
    row
    for network in dict.fromkeys((*DEEPER, *WIDER))
    for row in (Row(network, "dense", "", dense), Row(network, "compressed", BUDGET, compressed))
)


def _claim(sentence: str, networks: tuple[Network, ...]) -> Claim:
    keys = [f"{network}/compressed/{BUDGET}" for network in networks]
    return Claim(sentence, tuple((larger, smaller) for smaller, larger in pairwise(keys)))


TABLE = Table(
    name="depth_and_width",
    title="Depth and width within one budget",
    source="Plummer et al. 2022, table 14",
    expectation=(
        "Networks of several depths and widths, with their own parameters and with the same number of shared ones. "
        "Making a network deeper or wider is expected to help, or to do no harm, although its number of parameters "
        "stays the same."
    ),
    rows=ROWS,
    claims=(
        _claim("A deeper network is on par with the next shallower one or ahead", DEEPER),
        _claim("A wider network is on par with the next narrower one or ahead", WIDER),
    ),
)
