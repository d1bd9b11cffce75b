"""What a family's predictions are worth, and what each of them costs."""

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

_METRICS = {"top1": "top-1", "nll": "negative log-likelihood (nats)", "ece": "expected calibration error"}


@dataclass(frozen=True)
class Scores:
    """How good probabilities are, and what they cost.

    Attributes:
        macs: multiply-accumulates for a sample, without those that generate weights.
        top1: the share of samples that are predicted right.
        nll: the mean negative log-likelihood, in nats.
        ece: the expected calibration error, in 15 bins.
    """

    macs: int
    top1: float
    nll: float
    ece: float

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, macs: int) -> Scores:
        """Measure probabilities of shape (N, classes) against labels of shape (N,)."""
        return cls(macs, accuracy(probabilities, labels), nll(probabilities, labels), ece(probabilities, labels))


@dataclass(frozen=True)
class Evaluation:
    """How good the members of a family are, alone and together.

    Attributes:
        order: the members in the order in which they join.
        members: each member alone, in the order of the family.
        curve: the average of the members that have joined, after each of them; the last one is the whole family.
        disagreement: the share of samples on which two members predict different classes, the mean over all pairs;
            NaN for a single member.
        parameters: the family's trainable parameters, each tensor once.
        samples: how many samples it was measured on.
    """

    order: tuple[int, ...]
    members: tuple[Scores, ...]
    curve: tuple[Scores, ...]
    disagreement: float
    parameters: int
    samples: int

    @property
    def ensemble(self) -> Scores:
        """All members together."""
        return self.curve[-1]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'':<12}{'top-1':>8}{'NLL':>9}{'ECE':>9}{'MACs':>15}"]
        rows = [(f"member {index}", scores) for index, scores in enumerate(self.members)]
        rows += [(f"first {count}", scores) for count, scores in enumerate(self.curve, start=1)]
        for name, scores in rows:
            lines.append(f"{name:<12}{scores.top1:>8.2%}{scores.nll:>9.4f}{scores.ece:>9.4f}{scores.macs:>15,}")
        joining = ", ".join(map(str, self.order))
        return "\n".join(
            [
                *lines,
                f"members join in the order {joining}; two of them disagree on {self.disagreement:.2%} of "
                f"{self.samples:,} samples; {self.parameters:,} parameters",
            ]
        )

    def plot(self, path: str | os.PathLike[str], metric: str = "top1") -> None:
        """Draw the quality of a prediction over its cost: single members as points, those that joined as a line.

        Args:
            path: the image to write; its suffix names the format, such as .png.
            metric: "top1", "nll" or "ece".

        Raises:
            ConfigError: if the metric is unknown.
            MissingExtraError: if matplotlib is not installed.
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
    """Measure the members of a family, alone and together, in the order that they join in.

    Args:
        family: the family; it is run in evaluation mode.
        data: batches ``(x, y)``, or dicts with "labels".

    Returns:
        The scores; they can be printed and plotted.

    Raises:
        DataError: if the data is empty, or has no labels.
        ModelError: if a member returns no logits.
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
