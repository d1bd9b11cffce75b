"""Fashion-MNIST, read from small IDX files and from those of Debian's package."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from shapeshift.errors import DataError
from shapeshift.experiments.data import DATASETS, Images, fashion_mnist
from shapeshift.experiments.data.fashion_mnist import DEBIAN_FOLDER
from tests.data_files import assert_standardised, idx, write_fashion_mnist


def load(folder: Path | None = None, **options: int) -> tuple[Images, Images]:
    return DATASETS["fashion_mnist"](folder, **options)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_idx_files_are_read_packed_or_not_and_in_torchvisions_layout(tmp_path: Path, packed: bool, inner: str) -> None:
    written = write_fashion_mnist(tmp_path / inner, packed=packed)
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
    write_fashion_mnist(tmp_path)
    whole = load(tmp_path)[0].labels
    small, large, other = (load(tmp_path, train=count, test=3, seed=seed) for count, seed in ((4, 0), (7, 0), (4, 1)))
    assert [len(each.labels) for each in (*small, *large)] == [4, 3, 7, 3]
    assert torch.equal(small[0].labels, large[0].labels[:4])
    assert not torch.equal(small[0].labels, other[0].labels)
    assert_standardised(small[0])
    assert sorted(load(tmp_path, train=12)[0].labels.tolist()) == sorted(whole.tolist())
    for options in ({"train": 13}, {"train": 0}, {"test": 6}, {"train": 10, "validation": 3}):
        with pytest.raises(DataError, match=r"\d+ of \d+ images of Fashion-MNIST: give a number between 1 and all"):
            load(tmp_path, **options)


@pytest.mark.parametrize("count", [{}, {"train": 9}])
def test_validation_images_are_training_images_that_are_held_out(tmp_path: Path, count: dict[str, int]) -> None:
    write_fashion_mnist(tmp_path)
    whole = load(tmp_path)[0].labels.tolist()
    training, held_out = load(tmp_path, validation=3, **count)
    assert (len(training.labels), len(held_out.labels)) == (9, 3)
    assert sorted(training.labels.tolist() + held_out.labels.tolist()) == sorted(whole)
    assert_standardised(training)


def test_files_that_are_missing_or_damaged_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nowhere")
    missing = r"nowhere has no file train-images-idx3-ubyte .*package dataset-fashion-mnist.*https://github"
    with pytest.raises(DataError, match=missing):
        load()
    write_fashion_mnist(tmp_path)
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
