"""Measures of predicted probabilities: accuracy, likelihood, calibration and disagreement."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the fraction of samples whose most probable class is the true one.

    Args:
        probabilities: The probabilities, of shape (N, classes).
        labels: The true classes, of shape (N,).

    Returns:
        A number between 0 and 1.

    Example:
        >>> import torch
        >>> from shapeshift.superweights import accuracy
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        0.5
    """
    return (probabilities.argmax(1) == labels).double().mean().item()


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels, in nats.

    Args:
        probabilities: The probabilities, of shape (N, classes). A probability of 0 counts as the smallest normal
            number of the dtype.
        labels: The true classes, of shape (N,).

    Returns:
        A number that is not negative, and 0 for perfect predictions.

    Example:
        >>> import torch
        >>> from shapeshift.superweights import nll
        >>> round(nll(torch.full((3, 4), 0.25), torch.tensor([0, 1, 3])), 4)  # log(4)
        1.3863
    """
    chosen = probabilities[torch.arange(len(labels), device=labels.device), labels]
    return -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log().double().mean().item()


def ece(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, the difference between confidence and accuracy (Guo et al. 2017, eq. 3).

    Args:
        probabilities: The probabilities, of shape (N, classes).
        labels: The true classes, of shape (N,).
        bins: The number of equal intervals (a, b] that samples are sorted into by their confidence.

    Returns:
        The mean of the bins' differences, each weighted by the bin's number of samples, between 0 and 1.

    Example:
        >>> import torch
        >>> from shapeshift.superweights import ece
        >>> ece(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))  # sure, and right half of the time
        0.5
    """
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).double()
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)[1:-1]
    places = torch.bucketize(confidence, inner_edges)
    gaps = torch.zeros(bins, dtype=torch.float64, device=right.device)
    gaps.index_add_(0, places, right - confidence.double())
    return gaps.abs().sum().item() / len(labels)


def disagreement(probabilities: Tensor) -> float:
    """Return the fraction of samples on which two networks predict different classes, as the mean over all pairs.

    Args:
        probabilities: The probabilities of each network, of shape (networks, N, classes).

    Returns:
        A number between 0 and 1, or NaN for a single network.

    Example:
        >>> import torch
        >>> from shapeshift.superweights import disagreement
        >>> one, other = torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([[0.7, 0.3], [0.4, 0.6]])
        >>> disagreement(torch.stack([one, other]))
        0.5
    """
    predicted = probabilities.argmax(2)
    pairs = [(one != other).double().mean().item() for one, other in itertools.combinations(predicted, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan
