"""Emoji: a few thousand small pictures with English names, drawn from a font."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.cache import Arrays, cache_dir, load_or_make
from shapeshift.experiments.data.captions import CAPTIONED, CaptionedImages, Described, encode
from shapeshift.experiments.data.flickr30k import split_words
from shapeshift.experiments.data.plain_text import Source
from shapeshift.extras import progress_bar

_HOW = (
    "emoji come with Debian's packages fonts-noto-color-emoji and unicode-data (apt-get install fonts-noto-color-emoji "
    "unicode-data); or give a folder with NotoColorEmoji.ttf and emoji-test.txt"
)

FONT = Source(Path("/usr/share/fonts/truetype/noto"), "NotoColorEmoji.ttf", _HOW)
NAMES = Source(Path("/usr/share/unicode/emoji"), "emoji-test.txt", _HOW)

# Raise this when the pictures change, so that an old cache is not read.
_VERSION = 1

_TEST_SHARE = 0.2
_VOCABULARY, _LENGTH = 2000, 16  # tokens that are known, and those of a name

_SIZE = 109  # pixels; the font has bitmaps of this size alone
_SQUARE = ceil(1.25 * _SIZE)  # the side of a square that has room for a picture
_WIDEST = 1.5 * _SIZE  # what is wider is several pictures

_LINE = re.compile(r"([0-9A-F ]+?) *; fully-qualified *# \S+ E[0-9.]+ (.+)")
_TONE = re.compile(r"[a-z-]+ skin tone")


@CAPTIONED.register("emoji")
def emoji(
    data_dir: Path | None = None, side: int = 32, validation: bool = False, seed: int = 0
) -> tuple[CaptionedImages, CaptionedImages]:
    """Load the emoji of Unicode, drawn by Google's Noto font, such as a face with the caption "grinning face".

    Each emoji is one picture on white with one caption, its name. Unicode 15 has 3,655 of them. Flags of countries and
    regions are left out, since no name of a country tells how its flag looks. Emoji that differ only in their skin
    tones are in the same set, since each of them gives the others away. A fifth of the emoji, with other names, is the
    test set; many of its names combine words that the training set has.

    Args:
        data_dir: A folder that has ``NotoColorEmoji.ttf`` and ``emoji-test.txt``. None means those of Debian's packages
            ``fonts-noto-color-emoji`` and ``unicode-data``.
        side: The height and the width in pixels.
        validation: Whether as many emoji of the training set take the place of the test set, so that settings can be
            chosen without it. They are not in the training set that is returned.
        seed: The seed of the split.

    Returns:
        The training set and the test set, without phrases, each channel standardised by its mean and standard deviation
        over the training set.

    Raises:
        ConfigError: if the side is less than 1.
        DataError: if a file is missing or cannot be read, there are too few emoji, or the font has no picture of one.

    Example:
        >>> from pathlib import Path
        >>> from matplotlib import font_manager
        >>> from shapeshift.experiments.data.emoji import emoji
        >>> outlines = Path(font_manager.findfont("DejaVu Sans")).read_bytes()
        >>> _ = Path("NotoColorEmoji.ttf").write_bytes(outlines)  # in place of the one in colour
        >>> lines = [f"{2600 + number} ; fully-qualified # x E1.0 sign {number}" for number in range(5)]
        >>> _ = Path("emoji-test.txt").write_text("\\n".join(lines))
        >>> training, test = emoji(Path("."))
        >>> training.images.shape, test.images.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([1, 3, 32, 32]))
    """
    if side < 1:
        raise ConfigError(f"emoji with side={side}: give a side from 1")
    (names,), (font,) = NAMES.files(data_dir), FONT.files(data_dir)
    groups: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
    for name, text in _read(names):
        # Names that have the same words, such as keycaps of signs, are one caption: the first has the picture.
        groups.setdefault(_words(_TONE.sub("", name)), {}).setdefault(_words(name), text)
    order = [list(groups)[place] for place in np.random.default_rng(seed).permutation(len(groups))]
    held = round(_TEST_SHARE * len(order))
    if not held:
        raise DataError(f"{names} has {len(order)} emoji of different names, too few for two sets: {_HOW}")
    tests, rest = order[:held], order[held:]
    if validation:
        tests, rest = rest[:held], rest[held:]
    pictures = _pictures(font, [text for group in groups.values() for text in group.values()], side)
    training, test = (_describe([groups[name] for name in part], pictures) for part in (rest, tests))
    return encode(training, test, _VOCABULARY, _LENGTH)


def _words(name: str) -> tuple[str, ...]:
    """Split a name into its words."""
    return tuple(split_words(name))


def _read(path: Path) -> Iterator[tuple[str, str]]:
    """Read Unicode's list of emoji.

    Args:
        path: The file ``emoji-test.txt``. Its lines that are not fully qualified are other spellings.

    Yields:
        The name and the characters of each emoji, without flags of countries and regions.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
    for codes, name in _LINE.findall(text):
        if not name.startswith("flag:"):
            yield name, "".join(chr(int(code, 16)) for code in codes.split())


def _describe(groups: Sequence[dict[tuple[str, ...], str]], pictures: dict[str, NDArray[np.uint8]]) -> Described:
    named = [pair for group in groups for pair in group.items()]
    images = np.stack([pictures[text] for _, text in named])
    return Described(torch.from_numpy(images), [(index, name) for index, (name, _) in enumerate(named)], [])


def _pictures(font: Path, texts: Sequence[str], side: int) -> dict[str, NDArray[np.uint8]]:
    """Draw emoji, or read what was drawn before, each of shape (3, side, side)."""
    try:
        content = font.read_bytes()
    except OSError as error:
        raise DataError(f"{font} cannot be read: {error}") from error
    digest = hashlib.sha256(content + "\n".join(texts).encode()).hexdigest()[:16]
    cached = cache_dir() / f"emoji-v{_VERSION}-{digest}-{side}.npz"
    return dict(zip(texts, load_or_make(cached, lambda: _draw_all(font, texts, side))["images"], strict=True))


def _draw_all(path: Path, texts: Sequence[str], side: int) -> Arrays:
    try:
        font = ImageFont.truetype(path, _SIZE)
    except OSError as error:
        raise DataError(f"{path} cannot be read as a font of {_SIZE} pixels: {error}") from error
    with progress_bar(total=len(texts), desc="drawing emoji", unit="emoji") as progress:
        images = np.empty((len(texts), 3, side, side), np.uint8)
        for index, text in enumerate(texts):
            left, top, right, bottom = font.getbbox(text)
            if not (0 < right - left < _WIDEST and top < bottom):
                codes = " ".join(f"{ord(character):X}" for character in text)
                raise DataError(
                    f"{path} has no single picture of the emoji {codes}: take a font as new as the list of emoji, and "
                    "a Pillow with raqm, which joins them (PIL.features.check('raqm'))"
                )
            images[index] = _draw(font, text, side)
            progress.update()
    return {"images": images}


def _draw(font: ImageFont.FreeTypeFont, text: str, side: int) -> NDArray[np.uint8]:
    """Draw an emoji in the middle of a white square, and resize it."""
    square = Image.new("RGB", (_SQUARE, _SQUARE), "white")
    middle = _SQUARE / 2, _SQUARE / 2
    ImageDraw.Draw(square).text(middle, text, "black", font, anchor="mm", embedded_color=True)
    resized = square.resize((side, side), Image.Resampling.BOX)
    pixels: NDArray[np.uint8] = np.asarray(resized).transpose(2, 0, 1)
    return pixels
