"""The quality and the cost of a family's predictions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from shapeshift.budget import count_parameters
from shapeshift.errors import ConfigError
from shapeshift.extras import new_figure
from shapeshift.running.batches import Batches
from shapeshift.running.labels import predict_all
from shapeshift.superweights.family import Family
from shapeshift.superweights.metrics import accuracy, disagreement, ece, nll
from shapeshift.text_table import text_table

_METRICS = {"top1": "top-1", "nll": "negative log-likelihood (nats)", "ece": "expected calibration error"}


@dataclass(frozen=True)
class Scores:
    """The quality and the cost of predicted probabilities.

    Attributes:
        macs: The number of multiply-accumulates for a sample, without those that generate weights.
        top1: The fraction of samples that are classified correctly.
        nll: The mean negative log-likelihood, in nats.
        ece: The expected calibration error, with 15 bins.

    Example:
        >>> import torch
        >>> from shapeshift.superweights import Scores
        >>> scores = Scores.of(torch.eye(4), torch.tensor([0, 1, 2, 0]), macs=1000)
        >>> scores.top1, scores.ece
        (0.75, 0.25)
    """

    macs: int
    top1: float
    nll: float
    ece: float

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, macs: int) -> Scores:
        """Measure the quality of probabilities.

        Args:
            probabilities: The probabilities, of shape (N, classes).
            labels: The true classes, of shape (N,).
            macs: The number of multiply-accumulates for a sample.
        """
        return cls(macs, accuracy(probabilities, labels), nll(probabilities, labels), ece(probabilities, labels))


@dataclass(frozen=True)
class Evaluation:
    """The scores of a family's members, alone and together, which :func:`evaluate` returns.

    Attributes:
        order: The indices of the members in the order in which they join.
        members: The scores of each member alone, in the order of the family.
        curve: The scores of the average of the first members in ``order``: of one, of two, and so on up to all.
        disagreement: The fraction of samples on which two members predict different classes, as the mean over all
            pairs. It is NaN for a single member.
        parameters: The number of the family's trainable parameters, with each tensor counted once.
        samples: The number of samples in the data.

    Example:
        >>> import torch
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.superweights import Family, evaluate
        >>> family = Family([WideResNet(10, 0.5), WideResNet(10, 0.25)], budget="90%")
        >>> evaluation = evaluate(family, [(torch.randn(8, 3, 8, 8), torch.randint(10, (8,)))])
        >>> evaluation.ensemble == evaluation.curve[-1]
        True
        >>> [line.split()[0] for line in str(evaluation).splitlines()]
        ['top-1', 'member', 'member', 'first', 'first', 'members']
    """

    order: tuple[int, ...]
    members: tuple[Scores, ...]
    curve: tuple[Scores, ...]
    disagreement: float
    parameters: int
    samples: int

    @property
    def ensemble(self) -> Scores:
        """The scores of all members together."""
        return self.curve[-1]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        named = [(f"member {index}", scores) for index, scores in enumerate(self.members)]
        named += [(f"first {count}", scores) for count, scores in enumerate(self.curve, start=1)]
        rows = [
            (name, f"{scores.top1:.2%}", f"{scores.nll:.4f}", f"{scores.ece:.4f}", f"{scores.macs:,}")
            for name, scores in named
        ]
        return (
            f"{text_table(['', 'top-1', 'NLL', 'ECE', 'MACs'], rows)}\n"
            f"members join in the order {', '.join(map(str, self.order))}; two of them disagree on "
            f"{self.disagreement:.2%} of {self.samples:,} samples; {self.parameters:,} parameters"
        )

    def plot(self, path: str | os.PathLike[str], metric: str = "top1") -> None:
        """Draw the quality of predictions over their cost: single members as points, averages as a line.

        Args:
            path: The image file to write. Its suffix names the format, such as .png.
            metric: The measure of quality: "top1", "nll" or "ece".

        Raises:
            ConfigError: If the metric is unknown.
            MissingExtraError: If matplotlib is not installed.
        """
        if metric not in _METRICS:
            raise ConfigError(f"metric must be one of {', '.join(_METRICS)}, not {metric!r}")
        figure = new_figure(5.5, 3.8)
        axes = figure.add_subplot()
        million = [scores.macs / 1e6 for scores in self.curve]
        axes.plot(million, [getattr(scores, metric) for scores in self.curve], "o-", label="averaged, in turn")
        alone = [(scores.macs / 1e6, getattr(scores, metric)) for scores in self.members]
        axes.plot(*zip(*alone, strict=True), "x", color="0.4", label="one member")
        for index, place in enumerate(alone):
            axes.annotate(str(index), place, xytext=(5, -10), textcoords="offset points", fontsize=8, color="0.4")
        axes.set(xlabel="million multiply-accumulates per sample", ylabel=_METRICS[metric], xlim=(0, None))
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def evaluate(family: Family, data: Iterable[Any]) -> Evaluation:
    """Measure the members of a family, alone and together.

    Args:
        family: The family. It runs in evaluation mode.
        data: Batches ``(x, y)``, or dicts with "labels".

    Returns:
        The scores. They can be printed and plotted.

    Raises:
        DataError: If the data is empty, or has no labels.
        ModelError: If a member returns no logits.

    Example:
        >>> import torch
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.superweights import Family, evaluate
        >>> family = Family([WideResNet(10, 0.5), WideResNet(10, 0.25)], budget="90%")
        >>> scores = evaluate(family, [(torch.randn(8, 3, 8, 8), torch.randint(10, (8,)))])
        >>> len(scores.members), scores.samples
        (2, 8)
    """
    batches = Batches(data)
    probabilities, labels = predict_all(family, batches)
    macs, order = family.count_macs(batches.first), family.order.tolist()
    curve = []
    for count in range(1, len(order) + 1):
        joined = order[:count]
        curve.append(Scores.of(probabilities[joined].mean(0), labels, sum(macs[index] for index in joined)))
    members = [Scores.of(found, labels, cost) for found, cost in zip(probabilities, macs, strict=True)]
    return Evaluation(
        tuple(order), tuple(members), tuple(curve), disagreement(probabilities), count_parameters(family), len(labels)
    )
