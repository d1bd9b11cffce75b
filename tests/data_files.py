"""Standardised images, and the file of a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shapeshift.experiments.data import Images
from tests.tolerances import assert_close


def assert_standardised(training: Images) -> None:
    assert training.images.dtype == torch.float32
    std, mean = torch.std_mean(training.images, dim=(0, 2, 3))
    assert_close(mean, torch.zeros(training.channels), "reordered")
    assert_close(std, torch.ones(training.channels), "reordered")


def kept(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the only file of a cache."""
    (path,) = folder.iterdir()
    with np.load(path) as file:
        return dict(file)
