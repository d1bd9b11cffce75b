"""The user's own image files, in one folder for each class."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.base import DATASETS, Images, standardise
from shapeshift.experiments.data.torchvision import torchvision_and_folder


@DATASETS.register("image_folder")
def image_folder(data_dir: Path | None = None, side: int = 32) -> tuple[Images, Images]:
    """Load the images of ``train/CLASS/*`` and ``test/CLASS/*``, or ``val/CLASS/*``, in colour.

    Args:
        data_dir: The folder with ``train`` and ``test`` or ``val``.
        side: The height and the width in pixels. Each image is resized so that its shorter side has this length, and
            cropped to its centre.

    Returns:
        The training set and the test set, each channel standardised by its mean and standard deviation over the
        training set.

    Raises:
        ConfigError: if the side is less than 1.
        DataError: if a folder is missing, an image cannot be read, or the two sets have different classes.
        MissingExtraError: if torchvision is not installed.
    """
    if side < 1:
        raise ConfigError(f"images of side={side}: give at least one pixel")
    torchvision, folder = torchvision_and_folder("image_folder", data_dir)
    training, training_classes = _read(torchvision, _find(folder, "train"), side)
    test, test_classes = _read(torchvision, _find(folder, "test", "val"), side)
    if training_classes != test_classes:
        different = ", ".join(sorted(set(training_classes) ^ set(test_classes)))
        raise DataError(f"{folder}: these classes are in only one of the two sets: {different}; give both all of them")
    return standardise(training, test)


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(f"{folder} has no folder {' or '.join(names)}: put images into {folder / names[0] / 'CLASS'}")


def _read(torchvision: ModuleType, folder: Path, side: int) -> tuple[Images, list[str]]:
    """Return the images of a folder, and the names of its classes."""
    transforms = torchvision.transforms
    steps = [transforms.Resize(side), transforms.CenterCrop(side), transforms.PILToTensor()]
    try:
        dataset = torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))
        images = torch.stack([image for image, _ in dataset])
    except OSError as error:  # a class without images, or a file that is no image
        raise DataError(f"the images in {folder} cannot be read: {error}") from error
    return Images(images, torch.tensor(dataset.targets), num_classes=len(dataset.classes)), dataset.classes
