"""Folders of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.image_folder import image_folder
from tests.tolerances import assert_close


def write_image(path: Path, width: int, height: int, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


@pytest.mark.parametrize("second", ["test", "val"])
def test_a_folder_of_images_is_read(tmp_path: Path, second: str) -> None:
    write_image(tmp_path / "train" / "cat" / "a.png", 20, 10, (250, 0, 0))
    write_image(tmp_path / "train" / "dog" / "b.png", 10, 20, (50, 100, 0))
    write_image(tmp_path / "train" / "dog" / "c.png", 8, 8, (0, 200, 0))
    write_image(tmp_path / second / "cat" / "d.png", 40, 40, (250, 0, 7))
    write_image(tmp_path / second / "dog" / "e.png", 9, 9, (0, 200, 0))
    training, test = image_folder(tmp_path, side=8)
    assert training.images.shape == (3, 3, 8, 8)
    assert test.images.shape == (2, 3, 8, 8)
    assert training.labels.tolist() == [0, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert training.num_classes == 2
    red, green, blue = training.images[:, :, 4, 4].unbind(1)
    assert red.argsort().tolist() == [2, 1, 0]
    assert green.argsort().tolist() == [0, 1, 2]
    assert not blue.any()
    assert_close(test.images[0, :2], training.images[0, :2], "identical")
    assert (test.images[0, 2] == 7).all()
    assert image_folder(tmp_path)[0].images.shape == (3, 3, 32, 32)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="side=0"):
        image_folder(tmp_path, side=0)
    with pytest.raises(DataError, match="no folder train"):
        image_folder(tmp_path)
    write_image(tmp_path / "train" / "cat" / "a.png", 8, 8, (1, 2, 3))
    with pytest.raises(DataError, match="no folder test or val"):
        image_folder(tmp_path)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no valid file for the classes cat"):
        image_folder(tmp_path)
    (tmp_path / "test" / "cat" / "b.png").write_text("no image")
    with pytest.raises(DataError, match=r"b\.png"):
        image_folder(tmp_path)
    write_image(tmp_path / "test" / "cat" / "b.png", 8, 8, (1, 2, 3))
    write_image(tmp_path / "test" / "dog" / "c.png", 8, 8, (1, 2, 3))
    with pytest.raises(DataError, match="only one of the two sets: dog"):
        image_folder(tmp_path)
