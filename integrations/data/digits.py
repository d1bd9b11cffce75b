"""Handwritten digits that ship with scikit-learn: 1797 grey images of 8 x 8 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from shapeshift.integrations.data.base import DATASETS, Images, standardise

TRAIN_SIZE = 1200


@DATASETS.register("digits")
def digits(data_dir: Path | None = None) -> tuple[Images, Images]:
    """Load the digits in a fixed split of 1200 training and 597 test images.

    Args:
        data_dir: not read; the images are installed with scikit-learn.

    Returns:
        The training set and the test set, standardised by the training set's mean and deviation.
    """
    data = load_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data.target)))
    images = torch.from_numpy(data.images)[order].unsqueeze(1)
    labels = torch.from_numpy(data.target).long()[order]
    training = Images(images[:TRAIN_SIZE], labels[:TRAIN_SIZE], num_classes=10)
    test = Images(images[TRAIN_SIZE:], labels[TRAIN_SIZE:], num_classes=10)
    return standardise(training, test)
