"""Standardised images, the file of a cache, and small files of Fashion-MNIST."""

from __future__ import annotations

import gzip
import struct
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


def idx(entries: NDArray[np.uint8]) -> bytes:
    """Return unsigned bytes in IDX form."""
    return struct.pack(f">HBB{entries.ndim}I", 0, 8, entries.ndim, *entries.shape) + entries.tobytes()


def write_fashion_mnist(
    folder: Path, train: int = 12, test: int = 5, packed: bool = True
) -> dict[str, NDArray[np.uint8]]:
    """Write sets of random images in the form of Fashion-MNIST, and return the images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, images = np.random.default_rng(0), {}
    for part, size in (("train", train), ("t10k", test)):
        images[part] = rng.integers(0, 256, (size, 28, 28), np.uint8)
        # A label is the first pixel's remainder, so that an image can be matched with its label.
        for kind, entries in (("images-idx3", images[part]), ("labels-idx1", images[part][:, 0, 0] % 10)):
            path = folder / f"{part}-{kind}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(entries)))
            else:
                path.write_bytes(idx(entries))
    return images
