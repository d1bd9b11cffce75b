"""Tux Paint's stamps: a few hundred small pictures with English captions, read from PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.captions import CAPTIONED, CaptionedImages, Described, encode
from shapeshift.experiments.data.flickr30k import split_words
from shapeshift.experiments.data.plain_text import Source

SOURCE = Source(
    Path("/usr/share/tuxpaint/stamps"),
    "**/*.txt",
    "Tux Paint's stamps come with Debian's package tuxpaint-stamps-default (apt-get install tuxpaint-stamps-default); "
    "or give the folder stamps of https://tuxpaint.org/download/",
)

_TEST_SHARE = 0.2
_VOCABULARY, _LENGTH = 1000, 16  # tokens that are known, and those of a caption


@CAPTIONED.register("stamps")
def stamps(data_dir: Path | None = None, side: int = 32, seed: int = 0) -> tuple[CaptionedImages, CaptionedImages]:
    """Load the stamps of Tux Paint, a drawing program for children, such as a frog with the caption "A frog.".

    A caption is the first line of a text file, and its picture is the PNG file of the same name. Captions whose picture
    is drawn in SVG alone are left out. Of pictures with the same words the first one is taken, so that each caption has
    one picture, and each picture one caption. Debian's package has 952 captions, 785 of them with a PNG file, and 644
    of these differ. A fifth of them is the test set: it has other captions, most of which have words that the training
    set does not have.

    Args:
        data_dir: The folder of the stamps, with any folders below it. None means that of Debian's package
            ``tuxpaint-stamps-default``.
        side: The height and the width in pixels. The picture is put in the middle of a white square, and that is
            resized.
        seed: The seed of the split.

    Returns:
        The training set and the test set, without phrases, each channel standardised by its mean and standard deviation
        over the training set.

    Raises:
        ConfigError: if the side is less than 1.
        DataError: if there are no captions, a file cannot be read, or too few captions have a picture.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from shapeshift.experiments.data.stamps import stamps
        >>> folder = Path("stamps")
        >>> folder.mkdir()
        >>> for name in ("frog", "lion", "lark"):
        ...     Image.new("RGBA", (8, 6)).save(folder / f"{name}.png")
        ...     _ = (folder / f"{name}.txt").write_text(f"A {name}.")
        >>> training, test = stamps(folder)
        >>> training.images.shape, test.images.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([1, 3, 32, 32]))
    """
    if side < 1:
        raise ConfigError(f"stamps with side={side}: give a side from 1")
    captions = SOURCE.files(data_dir)
    found: dict[tuple[str, ...], Path] = {}
    for path in captions:
        picture = path.with_suffix(".png")
        if picture.exists() and (words := _caption(path)):
            found.setdefault(words, picture)
    held = round(_TEST_SHARE * len(found))
    if not held:
        raise DataError(
            f"{len(found)} of {len(captions)} captions have a PNG file of their own, too few for two sets: {SOURCE.how}"
        )
    order = [list(found)[place] for place in np.random.default_rng(seed).permutation(len(found))]
    training, test = (_describe(part, found, side) for part in (order[held:], order[:held]))
    return encode(training, test, _VOCABULARY, _LENGTH)


def _caption(path: Path) -> tuple[str, ...]:
    """Read the words of the English caption, which other languages follow, each in a line of its own."""
    try:
        return tuple(split_words(path.read_text(encoding="utf-8").partition("\n")[0]))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _describe(captions: list[tuple[str, ...]], pictures: dict[tuple[str, ...], Path], side: int) -> Described:
    images = np.stack([_picture(pictures[words], side) for words in captions])
    return Described(torch.from_numpy(images), list(enumerate(captions)), [])


def _picture(path: Path, side: int) -> NDArray[np.uint8]:
    """Read a picture on white, of shape (3, side, side)."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGBA")
    except OSError as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    longest = max(picture.size)
    square = Image.new("RGBA", (longest, longest), "white")
    square.alpha_composite(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    resized = square.convert("RGB").resize((side, side), Image.Resampling.BOX)
    pixels: NDArray[np.uint8] = np.asarray(resized).transpose(2, 0, 1)
    return pixels
