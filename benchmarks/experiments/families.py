"""Families of networks, their baselines, and the metrics of their predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import shapeshift
from benchmarks.experiments.base import Metric
from benchmarks.experiments.classification import ERROR, ImageClassification
from benchmarks.experiments.networks import Network, Training, WideNetwork, learned
from benchmarks.experiments.resumable import train
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.budget import parse_budget
from shapeshift.experiments.data import Images
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.superweights import Family, evaluate

# How much wider than its widest member a family's parameters could make a single network.
_WIDEST = 4


@dataclass(frozen=True)
class EnsembleNetwork(Network):
    """An ensemble of wide residual networks of several sizes.

    Attributes:
        members: The networks, the deepest and widest first.
    """

    members: tuple[WideNetwork, ...]

    def __str__(self) -> str:
        sizes = [f"{member.depth}-{member.width:g}" for member in self.members]
        return f"WRN {', '.join(sizes)}"

    def build(self, data: Images) -> Family:
        """Build the networks, which share nothing."""
        return Family([member.build(data) for member in self.members])


def widened(network: EnsembleNetwork, budget: str, training: Training) -> WideResNet:
    """Build one network as deep as the deepest member, and as wide as the family's budget allows."""
    data = training.data
    size = parse_budget(budget, shapeshift.count_parameters(network.build(data)))
    deepest = network.members[0]

    def build(factor: float) -> WideResNet:
        return WideResNet(deepest.depth, _WIDEST * deepest.width * factor, data.num_classes, data.channels)

    found = reduce_width(build, size)
    assert isinstance(found, WideResNet)
    return found


def learned_alone(
    network: EnsembleNetwork, budget: str, training: Training, num_groups: int, **options: Any
) -> nn.Module:
    """Compress the deepest member alone to the family's budget, in groups that are learned by K-means."""
    size = parse_budget(budget, shapeshift.count_parameters(network.build(training.data)))
    return learned(network.members[0], str(size), training, num_groups, **options)


class FamilyClassification(ImageClassification):
    """Train classifiers of images on the sum of their losses, and measure the average of their predictions."""

    def __init__(self) -> None:
        super().__init__(
            (
                ERROR,
                Metric("nll", "NLL, 0.01 nats"),
                Metric("ece", "calibration error, %"),
                Metric("disagreement", "disagreement, %", higher_is_better=True),
                Metric("macs", "million MACs"),
            )
        )

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        data, test = self.load(task)
        model = row.build(row.network, row.budget, Training(data, task.recipe, seed, task.device), **row.options)
        family = (model if isinstance(model, Family) else Family([model])).to(task.device)
        train(family, data, replace(task.recipe, **row.recipe), seed, "row")
        found = evaluate(family, zip(test.inputs.split(1024), test.labels.split(1024), strict=True))
        return {
            "parameters": found.parameters,
            "error": 100 * (1 - found.ensemble.top1),
            "nll": 100 * found.ensemble.nll,
            "ece": 100 * found.ensemble.ece,
            "disagreement": 100 * found.disagreement if len(found.members) > 1 else 0.0,
            "macs": found.ensemble.macs / 1e6,
        }
