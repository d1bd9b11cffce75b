"""Handwritten digits that ship with scikit-learn: 1797 grey images of 8 x 8 pixels in ten classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

TRAIN_SIZE = 1200


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        images: of shape (N, channels, height, width).
        labels: class indices of shape (N,).
    """

    images: Tensor
    labels: Tensor


def digits() -> tuple[Images, Images]:
    """Load the digits in a fixed split of 1200 training and 597 test images.

    Returns:
        The training set and the test set, standardised by the training set's mean and deviation.
    """
    data = load_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data.target)))
    images = torch.from_numpy(data.images).float()[order].unsqueeze(1)
    labels = torch.from_numpy(data.target).long()[order]
    std, mean = torch.std_mean(images[:TRAIN_SIZE])
    images = (images - mean) / std
    return Images(images[:TRAIN_SIZE], labels[:TRAIN_SIZE]), Images(images[TRAIN_SIZE:], labels[TRAIN_SIZE:])
