"""The ways to make a trained network smaller."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

import shapeshift
from benchmarks.baselines.low_rank import factorise
from benchmarks.baselines.magnitude_pruning import prune_by_magnitude
from benchmarks.claims import Claim
from benchmarks.experiments.distillation import Distillation
from benchmarks.experiments.networks import Network, Training, compressed, dense
from benchmarks.experiments.pretraining import pretrained
from benchmarks.row import Build, Row
from benchmarks.table import pairs
from shapeshift.budget import parse_budget

SOURCE = "Compressing trained models; the comparisons are SVD-LLM's and Basis Sharing's (ICLR 2025), at small sizes"
EXPECTATION = (
    "A network is trained, made smaller, and trained for a short while by the original as a teacher (KD). Shared "
    "parameters are fitted to its weights, with equal weight on all entries or calibrated on 512 inputs, or start "
    "from scratch; each layer's weight is truncated to its largest singular values; or channels are removed by "
    "magnitude. The fit is expected to be ahead at each budget. In the long rows the training afterwards is three "
    "times as long. Batch norms average the training set anew before an error is measured: after so few steps, "
    "running averages would be those of earlier weights."
)

_CALIBRATION = 512  # inputs of the training set


def fitted(network: Network, budget: str, training: Training, calibrate: bool = False, **options: Any) -> nn.Module:
    """Train a network, and fit shared parameters to its weights.

    Args:
        network: The network that is trained.
        budget: The budget of shared parameters.
        training: The training of the network.
        calibrate: Whether errors of a weight are weighed by their effect on the layer's outputs for part of the
            training set.
        **options: Fields of :class:`shapeshift.Config`.
    """
    model = copy.deepcopy(pretrained(network, "", training))
    inputs = training.data.inputs[:_CALIBRATION].to(training.device).split(64) if calibrate else None
    return shapeshift.compress(model, budget, calibration=inputs, init="fit", **options)


def factorised(network: Network, budget: str, training: Training) -> nn.Module:
    """Train a network, and truncate the singular value decomposition of each of its layers."""
    model = copy.deepcopy(pretrained(network, "", training))
    return factorise(model, parse_budget(budget, shapeshift.count_parameters(model)))


def magnitude_pruned(network: Network, budget: str, training: Training) -> nn.Module:
    """Train a network, and remove the channels of least magnitude."""
    model = pretrained(network, "", training)
    inputs = training.data.inputs[:2].to(training.device)
    return prune_by_magnitude(model, inputs, parse_budget(budget, shapeshift.count_parameters(model)))


def rows(network: Network, short: Mapping[str, Any], long: Mapping[str, Any], **options: Any) -> tuple[Row, ...]:
    """List the ways to make a trained network smaller, at four budgets, each trained by the original afterwards.

    Args:
        network: The network that is trained and made smaller.
        short: The fields of the recipe in which the training afterwards differs from the one before.
        long: The same fields for rows of a longer training afterwards, whose names say so.
        **options: Fields of :class:`shapeshift.Config`, where parameters are shared.
    """
    ways: dict[str, tuple[Build, Mapping[str, Any]]] = {
        "fit": (fitted, options),
        "fit, calibrated": (fitted, {**options, "calibrate": True}),
        "scratch": (compressed, options),
        "SVD per layer": (factorised, {}),
        "magnitude": (magnitude_pruned, {}),
    }
    original = Distillation("kd", network)
    return (
        Row(network, "whole", "", dense),
        *(
            Row(network, way + length, budget, build, choices, recipe, original)
            for budget in ("75%", "50%", "25%", "12.5%")
            for length, recipe in (("", short), (", long", long))
            for way, (build, choices) in ways.items()
        ),
    )


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Return the claims about the rows of :func:`rows`."""
    sentences = {
        "A fit is ahead of decomposing layer by layer": ("fit", "SVD per layer"),
        "A fit is ahead of starting from scratch": ("fit", "scratch"),
        "A fit is ahead of removing channels by magnitude": ("fit", "magnitude"),
        "Calibration helps": ("fit, calibrated", "fit"),
    }
    return tuple(
        Claim(sentence + when, pairs(rows, better + length, worse + length))
        for when, length in (("", ""), (" after a longer training", ", long"))
        for sentence, (better, worse) in sentences.items()
    )
