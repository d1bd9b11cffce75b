"""Handwritten digits that ship with scikit-learn: 1797 grey images of 8 x 8 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from shapeshift.errors import DataError
from shapeshift.experiments.data.base import DATASETS, Images, standardise

TRAIN_SIZE = 1200


@DATASETS.register("digits")
def digits(data_dir: Path | None = None, train: int = TRAIN_SIZE) -> tuple[Images, Images]:
    """Load the digits in a fixed split, by default of 1200 training images and 597 test images.

    Args:
        data_dir: Not used. The images are installed with scikit-learn.
        train: The number of training images among all 1797 images. A smaller training set is part of a larger one.

    Returns:
        The training set and the test set, standardised by the training set's mean and standard deviation.

    Raises:
        DataError: if a set would have no image.
    """
    data = load_digits()
    if not 0 < train < len(data.target):
        raise DataError(
            f"{train} training images of {len(data.target)} digits: leave some for training and for testing"
        )
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data.target)))
    images = torch.from_numpy(data.images)[order].unsqueeze(1)
    labels = torch.from_numpy(data.target).long()[order]
    training = Images(images[:train], labels[:train], num_classes=10)
    test = Images(images[train:], labels[train:], num_classes=10)
    return standardise(training, test)
