"""Data sets of labelled images: their names, and their standardisation."""

from __future__ import annotations

import pytest
import torch

from shapeshift.errors import DataError
from shapeshift.experiments.data import DATASETS, Images
from shapeshift.experiments.data.base import standardise
from tests.tolerances import assert_close


def test_the_data_sets_have_names() -> None:
    assert list(DATASETS) == ["cifar10", "cifar100", "digits", "fashion_mnist", "glyphs", "image_folder"]
    training, test = DATASETS["digits"]()
    assert training.num_classes == test.num_classes == 10
    assert training.channels == test.channels == 1


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 8, 8), torch.zeros(2), "shape .N, channels"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3), "shape .3,."),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0), "at least one"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, 5]), "labels from 0 to 5 for 5 classes"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([-1, 4]), "labels from -1"),
    ],
)
def test_what_is_no_labelled_set_is_refused(images: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Images(images, labels, num_classes=5)


def test_the_training_set_decides_how_both_are_standardised() -> None:
    training = Images(torch.tensor([0, 2, 7, 7]).view(2, 2, 1, 1).repeat(1, 1, 2, 2), torch.arange(2), 2)
    training.images[:, 1] = 7
    values = training.images[:, 0].clone()
    test = Images(torch.full((1, 2, 2, 2), 9), torch.zeros(1), 2)
    scaled_training, scaled_test = standardise(training, test)
    std, mean = torch.std_mean(values.float())
    assert_close(scaled_training.images[:, 0], (values - mean) / std, "reordered")
    assert_close(scaled_test.images[:, 0], ((9 - mean) / std).expand(1, 2, 2), "reordered")
    # A channel that is constant is only shifted.
    assert_close(scaled_training.images[:, 1], torch.zeros(2, 2, 2), "identical")
    assert_close(scaled_test.images[:, 1], torch.full((1, 2, 2), 2.0), "identical")
    assert training.images.dtype == torch.int64
