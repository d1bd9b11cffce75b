"""Glyphs: images of characters, drawn from fonts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from shapeshift.errors import ConfigError
from shapeshift.experiments.data import glyphs as drawing
from shapeshift.experiments.data.glyphs import CHARACTERS, TEST_FACES, TRAINING_FACES, glyphs
from tests.data_files import assert_standardised, kept
from tests.tolerances import assert_close


def test_glyphs_have_the_shape_of_cifar(tmp_path: Path) -> None:
    training, test = glyphs(tmp_path, train=200, test=100)
    assert training.images.shape == (200, 3, 32, 32)
    assert test.images.shape == (100, 3, 32, 32)
    assert training.num_classes == test.num_classes == 100
    assert Counter(training.labels.tolist()) == dict.fromkeys(range(100), 2)
    assert_standardised(training)
    assert {array.dtype for array in kept(tmp_path).values()} == {np.dtype(np.uint8)}


def test_a_set_of_glyphs_begins_as_every_larger_one_of_its_seed(tmp_path: Path) -> None:
    for folder, train, test, seed in [("few", 5, 3, 0), ("again", 5, 3, 0), ("many", 11, 7, 0), ("other", 5, 3, 1)]:
        glyphs(tmp_path / folder, train=train, test=test, seed=seed)
    few, again, many, other = (kept(tmp_path / folder) for folder in ("few", "again", "many", "other"))
    for name, images in few.items():
        assert np.array_equal(images, again[name])
        assert np.array_equal(images, many[name][: len(images)])
        assert not (images == other[name]).all(axis=(1, 2, 3)).any()
    assert not np.array_equal(few["train"][:3], few["test"])


def test_the_faces_of_the_test_set_are_new_and_their_families_are_not() -> None:
    assert not set(TEST_FACES) & set(TRAINING_FACES)
    assert {face.partition("-")[0] for face in TEST_FACES} == {face.partition("-")[0] for face in TRAINING_FACES}


@pytest.mark.parametrize("face", [*TRAINING_FACES, *TEST_FACES])
def test_every_face_has_a_hundred_characters(face: str) -> None:
    assert len(CHARACTERS) == 100
    masters = [drawing._master(face, character) for character in CHARACTERS]
    missing = drawing._master(face, "\U0010ffff")
    assert len({master.tobytes() for master in [*masters, missing]}) == 101
    for master in masters:
        left, top, right, bottom = master.getbbox()
        assert 0 < left < right < master.width
        assert 0 < top < bottom < master.height


def test_glyphs_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = glyphs(tmp_path, train=4, test=2)
    monkeypatch.delattr(drawing, "_draw_sets")
    read = glyphs(tmp_path, train=4, test=2)
    assert all(torch.equal(one.images, two.images) for one, two in zip(drawn, read, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: value}, "give sizes from 1") for name, value in (("train", 0), ("test", -1), ("seed", -1))),
        *(({"classes": classes}, "there are 100 characters") for classes in (0, 101)),
        *(({"side": side}, "give 32 or what divides it, such as 16") for side in (0, 20, 64)),
    ],
)
def test_glyphs_that_cannot_be_drawn_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        glyphs(tmp_path, **options)


def test_glyphs_can_be_fewer_characters_and_smaller_images(tmp_path: Path) -> None:
    training, test = glyphs(tmp_path, train=30, test=10, classes=10, side=16)
    assert training.images.shape == (30, 3, 16, 16)
    assert training.num_classes == test.num_classes == 10
    assert Counter(training.labels.tolist()) == dict.fromkeys(range(10), 3)
    assert_standardised(training)
    # The same images at full size, from the same file.
    large, _ = glyphs(tmp_path, train=30, test=10, classes=10)
    assert len(list(tmp_path.iterdir())) == 1
    means = large.images.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    deviations = (means - means.mean((0, 2, 3), keepdim=True)) / means.std((0, 2, 3), keepdim=True)
    assert_close(training.images, deviations, "reordered")
    # Every tenth of all characters.
    drawn = drawing._draw(CHARACTERS[30], TRAINING_FACES, np.random.default_rng((0, 0, 3)))
    assert np.array_equal(kept(tmp_path)["train"][3], drawn)
