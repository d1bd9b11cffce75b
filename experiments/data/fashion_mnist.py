"""Fashion-MNIST: 70,000 grey images of clothes, read from IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shapeshift.errors import DataError
from shapeshift.experiments.data.base import DATASETS, Images, standardise

#: The folder of Debian's package ``dataset-fashion-mnist``.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10

_UNSIGNED_BYTES = 8  # IDX's code of the type of an entry
_HOW = (
    "install Debian's package dataset-fashion-mnist, or put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist there, packed (.gz) or not"
)


@DATASETS.register("fashion_mnist")
def fashion_mnist(
    data_dir: Path | None = None,
    train: int | None = None,
    test: int | None = None,
    validation: int = 0,
    seed: int = 0,
) -> tuple[Images, Images]:
    """Load Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of shape (1, 28, 28) in 10 classes.

    Args:
        data_dir: The folder with ``train-images-idx3-ubyte`` and the three other files, packed or not, or torchvision's
            with ``FashionMNIST/raw``. None means the folder of Debian's package ``dataset-fashion-mnist``.
        train: The number of training images, chosen by the seed. A smaller set is part of a larger one. None means all.
        test: The number of test images, chosen by the seed. None means all.
        validation: The number of training images that take the place of the test set, so that settings can be chosen
            without it. They are not among the training images that are returned. 0 means that the test set is read.
        seed: The seed of the choice.

    Returns:
        The training set and the test set, standardised by the mean and standard deviation of the chosen training
        images.

    Raises:
        DataError: if the files are missing or damaged, or hold fewer images than were asked for.
    """
    folder = DEBIAN_FOLDER if data_dir is None else data_dir
    folder = next((each for each in (folder / "FashionMNIST" / "raw", folder / "raw") if each.is_dir()), folder)
    images = _read(folder, "train")
    if not validation:
        return standardise(_choose(images, train, seed), _choose(_read(folder, "t10k"), test, seed))
    chosen = _choose(images, len(images.labels) if train is None else train + validation, seed)
    return standardise(_between(chosen, validation, None), _between(chosen, 0, validation))


def _read(folder: Path, part: str) -> Images:
    """Read the images and labels of one set."""
    images, labels = (_idx(folder / f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return Images(images.unsqueeze(1), labels.long(), CLASSES)


def _choose(images: Images, count: int | None, seed: int) -> Images:
    """Choose some images in the order of the seed."""
    total = len(images.labels)
    if count is None:
        return images
    if not 0 < count <= total:
        raise DataError(f"{count} of {total} images of Fashion-MNIST: give a number between 1 and all")
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(total)[:count])
    return Images(images.images[chosen], images.labels[chosen], CLASSES)


def _between(images: Images, start: int, end: int | None) -> Images:
    return Images(images.images[start:end], images.labels[start:end], CLASSES)


def _idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes in IDX form: two zeros, a type, the number of axes, and the size of each."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} has no file {path.name} or {packed.name}: {_HOW}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed} cannot be read ({error}): {_HOW}") from error
    axes = content[3] if content[:3] == bytes((0, 0, _UNSIGNED_BYTES)) else 0
    sizes = np.frombuffer(content[4 : 4 + 4 * axes], ">u4").astype(int)
    start = 4 + 4 * axes
    if not axes or len(sizes) != axes or len(content) - start != sizes.prod():
        raise DataError(f"{path} is no whole IDX file of unsigned bytes: {_HOW}")
    entries: NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
    return torch.from_numpy(entries.copy())
