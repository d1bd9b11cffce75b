"""CIFAR, read from its own files."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import datasets

from shapeshift.errors import DataError, MissingExtraError
from shapeshift.experiments.data import DATASETS, Images
from shapeshift.experiments.data.cifar import cifar10, cifar100
from tests.data_files import assert_standardised


def write_cifar(folder: Path, dataset: type[datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Write files of two images each in the format of CIFAR, and return the first training image."""
    base, label_key = folder / dataset.base_folder, "fine_labels" if dataset is datasets.CIFAR100 else "labels"
    base.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content, protocol=2)
        (base / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    rng = np.random.default_rng(0)
    pixels = {}
    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(dataset, attribute):
            pixels[name] = rng.integers(0, 256, (2, 3 * 32 * 32), np.uint8)
            sums.append([name, write(name, {"data": pixels[name], label_key: [1, 3]})])
        monkeypatch.setattr(dataset, attribute, sums)
    names = [f"class {index}" for index in range(100 if dataset is datasets.CIFAR100 else 10)]
    md5 = write(dataset.meta["filename"], {dataset.meta["key"]: names})
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5})
    first: NDArray[np.uint8] = next(iter(pixels.values()))[0].reshape(3, 32, 32)
    return first


@pytest.mark.parametrize(
    ("load", "dataset", "sizes", "num_classes"),
    [(cifar10, datasets.CIFAR10, (10, 2), 10), (cifar100, datasets.CIFAR100, (2, 2), 100)],
)
def test_cifar_is_read_from_its_own_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[Path], tuple[Images, Images]],
    dataset: type[datasets.CIFAR10],
    sizes: tuple[int, int],
    num_classes: int,
) -> None:
    first = write_cifar(tmp_path, dataset, monkeypatch)
    training, test = load(tmp_path)
    assert (len(training.labels), len(test.labels)) == sizes
    assert training.num_classes == test.num_classes == num_classes
    assert training.images.shape[1:] == (3, 32, 32)
    assert training.labels[:2].tolist() == [1, 3]
    assert_standardised(training)
    # Scaling keeps the order of the pixels of a channel.
    for channel in range(3):
        expected = np.argsort(first[channel].ravel(), kind="stable")
        assert np.array_equal(np.argsort(training.images[0, channel].flatten().numpy(), kind="stable"), expected)


def test_cifar_that_is_missing_or_damaged_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"unpack https.*cifar-100-python.tar.gz") as missing:
        cifar100(tmp_path)
    assert str(tmp_path / "cifar-100-python") in str(missing.value)
    write_cifar(tmp_path, datasets.CIFAR10, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match="no intact CIFAR10"):
        cifar10(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "image_folder"])
def test_files_need_a_folder_and_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=f"'{name}' is read from files"):
        DATASETS[name]()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"shapeshift\[torchvision\]"):
        DATASETS[name](tmp_path)
