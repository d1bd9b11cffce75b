"""Tux Paint's stamps, read from small files and from those of Debian's package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data import CAPTIONED, CaptionedImages
from shapeshift.experiments.data.stamps import SOURCE, _caption, stamps
from tests.captioned import words_of
from tests.tolerances import assert_close

NAMES = "ant", "bat", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write ten stamps in two folders, as the package has them."""
    for index, name in enumerate(NAMES):
        write(tmp_path / ("animals/birds" if name == "jay" else "animals"), name, f"A {name}.\nde.utf8=Ein {name}.\n")
        Image.new("RGBA", (4, 4), (20 * index, 0, 0, 255)).save(next(tmp_path.rglob(f"{name}.png")))
    return tmp_path


def write(folder: Path, name: str, caption: str, mode: str = "RGBA") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    Image.new(mode, (4, 4)).save(folder / f"{name}.png")


def captions(data: CaptionedImages) -> list[str]:
    return [words_of(data, tokens) for tokens in data.sentences.tokens]


def test_each_picture_has_its_english_caption(folder: Path) -> None:
    training, test = CAPTIONED["stamps"](folder)
    assert training.images.shape == (8, 3, 32, 32)
    assert test.images.shape == (2, 3, 32, 32)
    assert training.sentences.images.tolist() == list(range(8))
    assert not len(training.phrases.tokens)
    assert_close(training.images.mean((0, 2, 3)), torch.zeros(3), "reordered")
    known = [caption.removeprefix("a ") for caption in captions(training)]
    assert set(known) < set(NAMES)
    # The red of a stamp tells which one it is.
    assert training.images[:, 0, 0, 0].argsort().tolist() == sorted(range(8), key=lambda place: known[place])
    # The test captions are others: their nouns are unknown.
    assert (test.sentences.tokens == 1).any(1).all()


def test_the_split_follows_the_seed(folder: Path) -> None:
    first, again, other = (captions(stamps(folder, seed=seed)[0]) for seed in (0, 0, 1))
    assert first == again != other


def test_a_caption_has_one_picture_and_pictures_without_png_or_words_are_left_out(folder: Path) -> None:
    before = stamps(folder, side=4)
    write(folder / "plants", "z", "An ant.")  # in other words than "A ant."
    write(folder / "plants", "zz", "a cat!\n")
    write(folder / "plants", "none", "\nde.utf8=Nichts.\n")
    (folder / "plants" / "drawn.txt").write_text("A rose.")
    (folder / "plants" / "drawn.svg").write_text("<svg/>")
    after = stamps(folder, side=4)
    assert sum(map(len, after)) == sum(map(len, before)) + 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_pictures_are_on_white_in_the_middle_of_a_square(tmp_path: Path, mode: str) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, name, name)
        picture = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
        if mode in ("RGBA", "LA"):
            picture.paste((255, 0, 0, 0), (0, 0, 4, 4))  # nothing is left of its colour
        else:
            picture.paste((255, 255, 255, 255), (0, 0, 4, 4))
        picture.convert(mode).save(tmp_path / f"{name}.png")
    training, _ = stamps(tmp_path, side=8)
    dark = training.images[0] < training.images[0].mean()
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 4:] = True
    assert torch.equal(dark, expected.expand(3, 8, 8))


def test_folders_that_have_no_stamps_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="apt-get install tuxpaint-stamps-default"):
        stamps(empty)
    (empty / "a.txt").write_text("A picture that is not here.")
    with pytest.raises(DataError, match="0 of 1 captions have a PNG file"):
        stamps(empty)
    with pytest.raises(ConfigError, match="side=0"):
        stamps(folder, side=0)
    (folder / "animals" / "ant.png").write_text("no picture")
    with pytest.raises(DataError, match=r"ant\.png cannot be read as an image"):
        stamps(folder)
    (folder / "animals" / "ant.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"ant\.txt cannot be read as UTF-8"):
        stamps(folder)


@pytest.mark.skipif(not SOURCE.folder.exists(), reason="needs Debian's package tuxpaint-stamps-default")
def test_the_package_has_as_many_stamps_as_the_documentation_says() -> None:
    files = SOURCE.files()
    with_png = [path for path in files if path.with_suffix(".png").exists()]
    assert (len(files), len(with_png), len(set(map(_caption, with_png)))) == (952, 785, 644)
