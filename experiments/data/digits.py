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
    """Load the digits in a fixed split of 1200 training and 597 test images, or of fewer and more.

    Args:
        data_dir: not read; the images are installed with scikit-learn.
        train: how many of the 1797 images are for training; those of a smaller number are among those of a larger one.

    Returns:
        The training set and the test set, standardised by the training set's mean and deviation.

    Raises:
        DataError: if no image would be left for one of them.
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
