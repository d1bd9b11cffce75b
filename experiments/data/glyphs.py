"""Characters of several alphabets on textures: a data set with the size and the shape of CIFAR-100, without files."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shapeshift.errors import ConfigError
from shapeshift.experiments.data.base import DATASETS, Images, standardise
from shapeshift.experiments.data.cache import Arrays, cache_dir, load_or_make
from shapeshift.extras import progress_bar

# Each is a class. Every font below has all of them, and no two look the same.
CHARACTERS = (
    "23456789"
    "ABCDEFGHJKLMNOPQRSTUVWXYZabdefhmt"  # Latin
    "ΓΔΘΞΠΣΦΨΩζλμξω"  # Greek
    "БДЖИЦЧШЫЭЮЯЪЉЂ"  # Cyrillic
    "ԳԺԽԾՁՃՄՇՊՋՖ"  # Armenian
    "აბდლთქშწჭხჯჰ"  # Georgian
    "&@#%€£§?"
)

# The test set has a face of each family (sans, mono, serif), in a style that the training set does not have.
TRAINING_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)
TEST_FACES = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-BoldItalic")

# Raise this when the images change, so that an old cache is not read.
_VERSION = 2

_SIDE = 32  # pixels, as CIFAR

# The difficulty: WRN-16-1 should end between 5% and 15% test error after 20 epochs on 20,000 images, which
# `python -m benchmarks.glyph_difficulty` measures. Noise and contrast decide how many images are unreadable. Size,
# place, rotation, shear and faces decide how much there is to learn.
_FONT_SIZE = 15.0, 28.0  # pixels
_SHIFT = 4.0  # the largest distance from the centre in pixels, in each direction
_ROTATION = 20.0  # the largest angle in degrees, to either side
_SHEAR = 0.3  # the largest shear in columns per row, to either side
_MIDDLE = 80.0, 175.0  # the mean level, from 0 to 255, of the colours of glyph and background
_CONTRAST = 60.0, 220.0  # the distance between the two colours in levels
_TEXTURE = 0.0, 60.0  # the largest deviation of the background in levels
_NOISE = 5.0, 45.0  # the standard deviation in levels

# A glyph is rendered once for each face, at a large size, and then transformed into each image at twice its resolution.
_MASTER_FONT_SIZE = 48  # pixels
_MASTER_SIDE = 72  # pixels; the largest glyph takes 66
_OVERSAMPLING = 2


@DATASETS.register("glyphs")
def glyphs(
    data_dir: Path | None = None,
    train: int = 50_000,
    test: int = 10_000,
    seed: int = 0,
    classes: int = len(CHARACTERS),
    side: int = _SIDE,
) -> tuple[Images, Images]:
    """Draw images of shape (3, 32, 32) of 100 characters, the test set in faces that the training set does not use.

    With fewer characters and smaller images, networks learn the task within minutes on a CPU.

    Face, size, place, rotation, shear, colours, background and noise of an image are random. They depend only on the
    seed, the set and the image's index, so a smaller set is the first part of a larger one. The classes take turns. The
    images are the same on every machine with the same versions of numpy (the random generator), Pillow (with its
    FreeType) and matplotlib (with its DejaVu fonts), up to rounding in floating point.

    Args:
        data_dir: The folder to keep the images in. None means ``shapeshift`` in $XDG_CACHE_HOME or ~/.cache.
        train: The number of training images.
        test: The number of test images.
        seed: The seed of all random choices.
        classes: The number of different characters. They are taken from all alphabets.
        side: The height and the width in pixels, a divisor of 32. Smaller images are averages over pixels.

    Returns:
        The training set and the test set, each channel standardised by its mean and standard deviation over the
        training set.

    Raises:
        ConfigError: if a size is less than 1, the seed is negative, there are fewer characters than ``classes``, or
            ``side`` does not divide 32.
    """
    if train < 1 or test < 1 or seed < 0:
        raise ConfigError(f"glyphs with train={train}, test={test}, seed={seed}: give sizes from 1 and a seed from 0")
    if not 1 <= classes <= len(CHARACTERS):
        raise ConfigError(f"glyphs in {classes} classes: there are {len(CHARACTERS)} characters")
    if side < 1 or _SIDE % side:
        raise ConfigError(f"glyphs of {side} pixels: give {_SIDE} or what divides it, such as {_SIDE // 2}")
    characters = CHARACTERS[:: len(CHARACTERS) // classes][:classes]
    some = "" if classes == len(CHARACTERS) else f"-{classes}classes"
    path = (data_dir or cache_dir()) / f"glyphs-v{_VERSION}-seed{seed}-{train}-{test}{some}.npz"
    arrays = load_or_make(path, lambda: _draw_sets(characters, train, test, seed))
    return standardise(*(_labelled(arrays[name], classes, side) for name in ("train", "test")))


def _labelled(images: NDArray[np.uint8], classes: int, side: int) -> Images:
    labels = torch.arange(len(images)) % classes
    smaller = torch.from_numpy(images)
    if side != _SIDE:
        smaller = F.avg_pool2d(smaller.float(), _SIDE // side)
    return Images(smaller, labels, num_classes=classes)


def _draw_sets(characters: str, train: int, test: int, seed: int) -> Arrays:
    sets = {"train": (train, TRAINING_FACES), "test": (test, TEST_FACES)}
    images = {name: np.empty((size, 3, _SIDE, _SIDE), np.uint8) for name, (size, _) in sets.items()}
    with progress_bar(total=train + test, desc="drawing glyphs", unit="image") as progress:
        for position, (name, (size, faces)) in enumerate(sets.items()):
            for index in range(size):
                rng = np.random.default_rng((seed, position, index))
                images[name][index] = _draw(characters[index % len(characters)], faces, rng)
                progress.update()
    return images


def _draw(character: str, faces: tuple[str, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image, of shape (3, 32, 32)."""
    alpha = coverage(character, faces, rng)
    middle = rng.uniform(*_MIDDLE, 3)
    direction = rng.standard_normal(3)
    half = direction / np.linalg.norm(direction) * rng.uniform(*_CONTRAST) / 2
    background = middle - half + rng.uniform(*_TEXTURE) * texture(rng)
    image = background + alpha[..., None] * (middle + half - background)
    image += rng.uniform(*_NOISE) * rng.standard_normal(image.shape)
    return image.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def coverage(
    character: str,
    faces: tuple[str, ...],
    rng: np.random.Generator,
    side: int = _SIDE,
    font_size: tuple[float, float] = _FONT_SIZE,
    shift: float = _SHIFT,
) -> NDArray[np.float64]:
    """Size, shear, rotate and shift a character at random, and return how much of each pixel it covers.

    Args:
        character: One of ``CHARACTERS``.
        faces: The faces to choose from.
        rng: The random generator of all choices.
        side: The height and the width in pixels.
        font_size: The least and the largest font size in pixels.
        shift: The largest distance from the centre in pixels, in each direction.

    Returns:
        Shares between 0 and 1, of shape (side, side).
    """
    master = _master(faces[rng.integers(len(faces))], character)
    scale = _OVERSAMPLING * rng.uniform(*font_size) / _MASTER_FONT_SIZE
    angle = math.radians(rng.uniform(-_ROTATION, _ROTATION))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1.0, rng.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0]])
    fine = side * _OVERSAMPLING
    centre = fine / 2 + _OVERSAMPLING * rng.uniform(-shift, shift, 2)
    # Pillow takes the inverse transform: from a pixel of the image to a point of the master.
    inverse = np.linalg.inv(scale * rotation @ shear)
    start = _MASTER_SIDE / 2 - inverse @ centre
    data = (*inverse[0], start[0], *inverse[1], start[1])
    placed = master.transform((fine, fine), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.asarray(placed.reduce(_OVERSAMPLING), np.float64) / 255


@cache
def _master(face: str, character: str) -> Image.Image:
    """Render a character in white on black, with its ink in the centre of a square."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    # Every build of Pillow has the basic layout.
    font = ImageFont.truetype(str(path), _MASTER_FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(character)
    master = Image.new("L", (_MASTER_SIDE, _MASTER_SIDE))
    corner = (_MASTER_SIDE - left - right) // 2, (_MASTER_SIDE - top - bottom) // 2
    ImageDraw.Draw(master).text(corner, character, fill=255, font=font)
    return master


def texture(rng: np.random.Generator, side: int = _SIDE) -> NDArray[np.float64]:
    """Draw smooth colour noise between -1 and 1, of shape (side, side, 3): few large spots or many small ones."""
    cells = rng.integers(2, 9)
    spots = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
    return np.asarray(spots.resize((side, side), Image.Resampling.BICUBIC), np.float64) / 127.5 - 1
