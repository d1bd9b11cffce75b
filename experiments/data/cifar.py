"""CIFAR-10 and CIFAR-100, read from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shapeshift.errors import DataError
from shapeshift.experiments.data.base import DATASETS, Images, standardise
from shapeshift.experiments.data.torchvision import torchvision_and_folder


@DATASETS.register("cifar10")
def cifar10(data_dir: Path | None = None, download: bool = False) -> tuple[Images, Images]:
    """Load CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of shape (3, 32, 32) in 10 classes.

    Args:
        data_dir: The folder with ``cifar-10-batches-py``, as unpacked from the archive.
        download: Whether to fetch the archive if the files are missing.

    Returns:
        The training set and the test set, each channel standardised by its mean and standard deviation over the
        training set.

    Raises:
        DataError: if the files are missing or damaged.
        MissingExtraError: if torchvision is not installed.
    """
    return _load("CIFAR10", data_dir, download)


@DATASETS.register("cifar100")
def cifar100(data_dir: Path | None = None, download: bool = False) -> tuple[Images, Images]:
    """Load CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of shape (3, 32, 32) in 100 classes.

    Args:
        data_dir: The folder with ``cifar-100-python``, as unpacked from the archive.
        download: Whether to fetch the archive if the files are missing.

    Returns:
        The training set and the test set, each channel standardised by its mean and standard deviation over the
        training set.

    Raises:
        DataError: if the files are missing or damaged.
        MissingExtraError: if torchvision is not installed.
    """
    return _load("CIFAR100", data_dir, download)


def _load(name: str, data_dir: Path | None, download: bool) -> tuple[Images, Images]:
    torchvision, folder = torchvision_and_folder(name.lower(), data_dir)
    dataset = getattr(torchvision.datasets, name)
    try:
        training, test = (dataset(folder, train=train, download=download) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{folder} holds no intact {name} ({error}): unpack {dataset.url} there, so that "
            f"{folder / dataset.base_folder} exists, or let the loader fetch it with download=True"
        ) from error
    return standardise(_images(training), _images(test))


def _images(part: Any) -> Images:
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2)
    return Images(images, torch.tensor(part.targets), num_classes=len(part.classes))
