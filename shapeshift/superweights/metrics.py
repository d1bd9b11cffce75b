"""How good probabilities are: accuracy, likelihood, calibration, and how far networks disagree."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose most probable class is the right one.

    Args:
        probabilities: of shape (N, classes).
        labels: of shape (N,).
    """
    return (probabilities.argmax(1) == labels).double().mean().item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels, in nats.

    Args:
        probabilities: of shape (N, classes); those that are 0 count as the smallest number that is not.
        labels: of shape (N,).
    """
    chosen = probabilities[torch.arange(len(labels), device=labels.device), labels]
    return -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log().double().mean().item()


def ece(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error: by how much confidence and accuracy differ (Guo et al. 2017, eq. 3).

    Args:
        probabilities: of shape (N, classes).
        labels: of shape (N,).
        bins: into how many equal intervals (a, b] of confidence the samples are sorted.

    Returns:
        The mean of the bins' differences, each weighted by its number of samples.
    """
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).double()
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)[1:-1]
    places = torch.bucketize(confidence, inner_edges)
    gaps = torch.zeros(bins, dtype=torch.float64, device=right.device)
    gaps.index_add_(0, places, right - confidence.double())
    return gaps.abs().sum().item() / len(labels)


def disagreement(probabilities: Tensor) -> float:
    """Return the share of samples on which two networks predict different classes, the mean over all pairs.

    Args:
        probabilities: of shape (networks, N, classes).

    Returns:
        A number between 0 and 1; NaN for a single network.
    """
    predicted = probabilities.argmax(2)
    pairs = [(one != other).double().mean().item() for one, other in itertools.combinations(predicted, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan
