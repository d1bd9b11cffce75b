"""The metrics of predictions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from shapeshift.superweights import accuracy, disagreement, ece, nll


def test_metrics_are_those_that_are_counted_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.62, 0.38], [0.3, 0.7], [0.61, 0.39]])
    labels = torch.tensor([0, 1, 1, 0])
    assert accuracy(probabilities, labels) == 0.75
    expected = -sum(map(math.log, (0.9, 0.38, 0.7, 0.61))) / 4
    assert nll(probabilities, labels) == pytest.approx(expected, rel=1e-6)
    # 0.9 and 0.7 are alone in their bins of a fifteenth; 0.62 and 0.61 share one, in which half are right.
    gaps = (abs(1 - 0.9), abs(1 - 0.7), abs(1 - 0.62 - 0.61))
    assert ece(probabilities, labels) == pytest.approx(sum(gaps) / 4, rel=1e-6)
    assert ece(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0
    assert nll(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) > 80  # finite
    three = torch.stack([probabilities, probabilities.flip(1), probabilities])
    assert disagreement(three) == pytest.approx(2 / 3)
    assert math.isnan(disagreement(three[:1]))


def predictions(samples: int, classes: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw logits of some confidence, their probabilities, and labels of which many are the most probable class."""
    generator = torch.Generator().manual_seed(samples * classes)
    logits = scale * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    labels = torch.where(torch.rand(samples, generator=generator) < 0.6, logits.argmax(1), labels)
    return logits, logits.softmax(1), labels


@pytest.mark.parametrize("bins", [1, 2, 15, 200])  # of 200 bins for 7 samples, nearly all are empty
@pytest.mark.parametrize(("samples", "classes", "scale"), [(1, 3, 1.0), (7, 2, 1.0), (500, 10, 2.0), (300, 100, 5.0)])
def test_the_calibration_error_is_that_of_torchmetrics(samples: int, classes: int, scale: float, bins: int) -> None:
    _, probabilities, labels = predictions(samples, classes, scale)
    expected = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=bins)
    assert ece(probabilities, labels, bins) == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)  # in float32


@pytest.mark.parametrize("bins", [4, 10, 15])
def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_bin_below(bins: int) -> None:
    edges = torch.linspace(0, 1, bins + 1)
    confidence = edges[edges > 0.5].repeat(3)
    labels = torch.arange(len(confidence)) % 2
    two = torch.stack([confidence, 1 - confidence], 1)
    # The bins of torchmetrics are closed below: the next smaller confidence lies in the bin that is meant.
    below = torch.stack([confidence.nextafter(torch.tensor(0.0)), 1 - confidence], 1)
    expected = multiclass_calibration_error(below, labels, num_classes=2, n_bins=bins)
    assert ece(two, labels, bins) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("samples", "classes", "scale"), [(1, 2, 1.0), (50, 2, 1.0), (200, 10, 3.0), (100, 100, 5.0)])
def test_likelihood_and_accuracy_are_those_of_torch_and_torchmetrics(samples: int, classes: int, scale: float) -> None:
    logits, probabilities, labels = predictions(samples, classes, scale)
    assert nll(probabilities, labels) == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-9)
    expected = multiclass_accuracy(probabilities, labels, num_classes=classes, average="micro")
    assert accuracy(probabilities, labels) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("networks", "samples"), [(2, 1), (2, 40), (5, 100)])
def test_disagreement_is_the_mean_hamming_distance_of_predictions(networks: int, samples: int) -> None:
    probabilities = torch.randn(networks, samples, 3, generator=torch.Generator().manual_seed(networks)).softmax(2)
    expected = pdist(probabilities.argmax(2).numpy(), "hamming").mean()
    assert disagreement(probabilities) == pytest.approx(expected, rel=1e-9)
