"""Labelled images, and the registry of the functions that load them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from shapeshift.errors import DataError
from shapeshift.names import Registry


class Labelled(Protocol):
    """A set that a classifier can be trained on: inputs with labels."""

    @property
    def inputs(self) -> Tensor:
        """The classifier's input, of shape (N, ...)."""

    @property
    def labels(self) -> Tensor:
        """Class indices of shape (N,)."""


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        images: The images, of shape (N, channels, height, width).
        labels: The class indices, of shape (N,).
        num_classes: The number of classes of the data set. A small set need not have images of all of them.

    Raises:
        DataError: if there is no image, the shapes do not fit each other, or a label is not a class index.
    """

    images: Tensor
    labels: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"images of shape {tuple(self.images.shape)} with labels of shape {tuple(self.labels.shape)}: "
                "give images of shape (N, channels, height, width) and N labels"
            )
        if not len(self.labels):
            raise DataError("a set without images: give at least one")
        low, high = self.labels.min().item(), self.labels.max().item()
        if low < 0 or high >= self.num_classes:
            raise DataError(f"labels from {low} to {high} for {self.num_classes} classes: count the classes from 0")

    @property
    def inputs(self) -> Tensor:
        """The images."""
        return self.images

    @property
    def channels(self) -> int:
        """The number of channels of each image."""
        return self.images.shape[1]


#: A loader takes ``data_dir: Path | None = None``, the folder of its files, and then its own options. It returns the
#: training set and the test set, standardised.
Loader = Callable[..., tuple[Images, Images]]

#: The data sets of labelled images, by name.
DATASETS: Registry[Loader] = Registry("data set")


def standardise(training: Images, test: Images) -> tuple[Images, Images]:
    """Standardise each channel by its mean and standard deviation over the training images.

    Args:
        training: The training set, of any numeric type.
        test: The test set, of any numeric type.

    Returns:
        The training set and the test set in float32.
    """
    scaled_training, scaled_test = standardise_pixels(training.images, test.images)
    return replace(training, images=scaled_training), replace(test, images=scaled_test)


def standardise_pixels(training: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise each channel by its mean and standard deviation over the training images.

    Args:
        training: The training images, of shape (N, channels, height, width) and any numeric type.
        test: The test images, in the same form.

    Returns:
        The training images and the test images in float32.
    """
    std, mean = torch.std_mean(training.float(), dim=(0, 2, 3), keepdim=True)
    std[std == 0] = 1.0  # a constant channel is only shifted
    # In place on one copy, to save memory: a set of the size of CIFAR takes 0.6 GB.
    scaled = [images.to(torch.float32, copy=True).sub_(mean).div_(std) for images in (training, test)]
    return scaled[0], scaled[1]
