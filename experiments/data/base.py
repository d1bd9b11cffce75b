"""What a data set is: labelled images to train and to test on, and the table of functions that load them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from shapeshift.errors import DataError
from shapeshift.names import Registry


class Labelled(Protocol):
    """What a classifier is trained on."""

    @property
    def inputs(self) -> Tensor:
        """What the classifier is called with, of shape (N, ...)."""

    @property
    def labels(self) -> Tensor:
        """Class indices of shape (N,)."""


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        images: of shape (N, channels, height, width).
        labels: class indices of shape (N,).
        num_classes: classes of the data set; a small set need not show all of them.

    Raises:
        DataError: if the shapes do not belong together, or a label names no class.
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
        """Channels of each image."""
        return self.images.shape[1]


# A loader takes ``data_dir: Path | None = None``, the folder that the files are kept in, and then options of its own.
# It returns the training set and the test set, standardised.
Loader = Callable[..., tuple[Images, Images]]
DATASETS: Registry[Loader] = Registry("data set")


def standardise(training: Images, test: Images) -> tuple[Images, Images]:
    """Standardise each channel by its mean and standard deviation over the training images.

    Args:
        training: the training set, of any numeric type.
        test: the test set.

    Returns:
        Both sets in float32.
    """
    scaled_training, scaled_test = standardise_pixels(training.images, test.images)
    return replace(training, images=scaled_training), replace(test, images=scaled_test)


def standardise_pixels(training: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise each channel by its mean and standard deviation over the training images.

    Args:
        training: images of shape (N, channels, height, width), of any numeric type.
        test: those of the test set.

    Returns:
        Both in float32.
    """
    std, mean = torch.std_mean(training.float(), dim=(0, 2, 3), keepdim=True)
    std[std == 0] = 1.0  # a channel that is constant has no deviation to divide by
    # In place on a copy: a set of the size of CIFAR takes 0.6 GB.
    scaled = [images.to(torch.float32, copy=True).sub_(mean).div_(std) for images in (training, test)]
    return scaled[0], scaled[1]
