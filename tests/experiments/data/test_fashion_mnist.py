"""Fashion-MNIST, read from small IDX files and from those of Debian's package."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shapeshift.errors import DataError
from shapeshift.experiments.data import DATASETS, Images, fashion_mnist
from shapeshift.experiments.data.fashion_mnist import DEBIAN_FOLDER
from tests.data_files import assert_standardised

SIZES = {"train": 12, "t10k": 5}


def idx(entries: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{entries.ndim}I", 0, 8, entries.ndim, *entries.shape) + entries.tobytes()


def write(folder: Path, packed: bool = True) -> dict[str, NDArray[np.uint8]]:
    """Write sets of a few images, and return the images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, images = np.random.default_rng(0), {}
    for part, size in SIZES.items():
        images[part] = rng.integers(0, 256, (size, 28, 28), np.uint8)
        # A label is the first pixel's remainder, so that an image can be matched with its label.
        for kind, entries in (("images-idx3", images[part]), ("labels-idx1", images[part][:, 0, 0] % 10)):
            path = folder / f"{part}-{kind}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(entries)))
            else:
                path.write_bytes(idx(entries))
    return images


def load(folder: Path | None = None, **options: int) -> tuple[Images, Images]:
    return DATASETS["fashion_mnist"](folder, **options)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_idx_files_are_read_packed_or_not_and_in_torchvisions_layout(tmp_path: Path, packed: bool, inner: str) -> None:
    written = write(tmp_path / inner, packed)
    training, test = load(tmp_path)
    assert training.images.shape == (12, 1, 28, 28)
    assert test.images.shape == (5, 1, 28, 28)
    assert training.num_classes == test.num_classes == 10
    assert training.labels.tolist() == (written["train"][:, 0, 0] % 10).tolist()
    assert_standardised(training)
    pixels = torch.from_numpy(written["t10k"]).float()
    expected = (pixels - written["train"].mean()) / written["train"].std(ddof=1)
    torch.testing.assert_close(test.images[:, 0], expected)


def test_a_subset_is_chosen_by_its_seed_and_part_of_a_larger_one(tmp_path: Path) -> None:
    write(tmp_path)
    whole = load(tmp_path)[0].labels
    small, large, other = (load(tmp_path, train=count, test=3, seed=seed) for count, seed in ((4, 0), (7, 0), (4, 1)))
    assert [len(each.labels) for each in (*small, *large)] == [4, 3, 7, 3]
    assert torch.equal(small[0].labels, large[0].labels[:4])
    assert not torch.equal(small[0].labels, other[0].labels)
    assert_standardised(small[0])
    assert sorted(load(tmp_path, train=12)[0].labels.tolist()) == sorted(whole.tolist())
    for options in ({"train": 13}, {"train": 0}, {"test": 6}):
        with pytest.raises(DataError, match=r"of the \d+ images in .*: give a number between 1 and all"):
            load(tmp_path, **options)


def test_files_that_are_missing_or_damaged_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nowhere")
    missing = r"nowhere has no file train-images-idx3-ubyte .*package dataset-fashion-mnist.*https://github"
    with pytest.raises(DataError, match=missing):
        load()
    write(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)
    for content in (b"", b"<html>", idx(np.zeros((2, 3), np.uint8))[:-1], b"\x00\x00\x0d\x01" + bytes(8)):
        images.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match="no whole IDX file of unsigned bytes"):
            load(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    images.write_bytes(whole)
    labels.write_bytes(gzip.compress(idx(np.full(5, 10, np.uint8))))
    with pytest.raises(DataError, match="for 10 classes"):
        load(tmp_path)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_package_holds_the_whole_data_set() -> None:
    training, test = load(train=1000)
    assert (len(training.labels), len(test.labels)) == (1000, 10_000)
    assert test.labels.bincount().tolist() == [1000] * 10
    assert_standardised(training)
    ankle_boot = 9
    assert load(test=1)[0].labels[0] == ankle_boot
