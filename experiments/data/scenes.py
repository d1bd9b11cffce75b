"""Several coloured characters at different places, with sentences that tell where they are: no files are needed."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shapeshift.errors import ConfigError
from shapeshift.experiments.data.cache import Arrays, cache_dir, load_or_make
from shapeshift.experiments.data.captions import CAPTIONED, Box, CaptionedImages, Described, encode
from shapeshift.experiments.data.glyphs import CHARACTERS, TEST_FACES, TRAINING_FACES, coverage, texture
from shapeshift.extras import progress_bar

# Levels of 0 to 255 in red, green and blue.
COLOURS = {
    "red": (215, 45, 45),
    "green": (45, 165, 60),
    "blue": (50, 85, 220),
    "yellow": (235, 220, 60),
    "orange": (240, 135, 35),
    "purple": (150, 55, 185),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}

SENTENCES = 5  # per scene, as Flickr30K has

# Counts up whenever a scene comes out otherwise, so that a cache of another recipe is not read.
_VERSION = 1

# The objects stand in different cells of a grid, and anywhere inside of their cells.
_GRID = 3
_CELL = 16  # pixels
_SIDE = _GRID * _CELL
_FONT_SIZE = 11.0, 15.0  # pixels
_INK = 0.3  # of a pixel has to be covered to belong to the character's box
# A scene has this many colours and characters to draw from, so that its objects often differ in one of them only.
_PALETTE = 2, 3
_COLOUR_DEVIATION = 18.0  # levels, of an object from its colour's name
_GREY = 95.0, 160.0  # levels of the background
_TEXTURE = 0.0, 45.0  # levels that the background deviates by at most
_NOISE = 3.0, 20.0  # standard deviation in levels

_RELATIONS = {(-1, 0): "to the left of", (1, 0): "to the right of", (0, -1): "above", (0, 1): "below"}


@CAPTIONED.register("scenes")
def scenes(
    data_dir: Path | None = None,
    train: int = 10_000,
    test: int = 1_000,
    objects: int = 3,
    characters: int = 20,
    seed: int = 0,
) -> tuple[CaptionedImages, CaptionedImages]:
    """Draw scenes of shape (3, 48, 48) of a few coloured characters, and write five sentences about each.

    A sentence names two objects by their colours and characters and tells how they stand to each other, or lists three
    of them. The objects' names are the phrases, each with the box around the object's ink. The test set is in faces
    that the training set does not use. A smaller set is the beginning of a larger one of the same seed.

    Args:
        data_dir: the folder to keep the images in; None for ``shapeshift`` in $XDG_CACHE_HOME or ~/.cache.
        train: scenes of the training set.
        test: scenes of the test set.
        objects: characters in a scene, 2 to 6.
        characters: how many different ones there are, 3 to 100.
        seed: of all random choices.

    Returns:
        The training set and the test set, each channel standardised by its mean and deviation over the former.

    Raises:
        ConfigError: if a size or the seed is out of its range.
    """
    most = _PALETTE[0] * _PALETTE[1]
    if (
        train < 1
        or test < 1
        or seed < 0
        or not 2 <= objects <= most
        or not _PALETTE[1] <= characters <= len(CHARACTERS)
    ):
        raise ConfigError(
            f"scenes with train={train}, test={test}, objects={objects}, characters={characters}, seed={seed}: give "
            f"sizes from 1, 2 to {most} objects, {_PALETTE[1]} to {len(CHARACTERS)} characters and a seed from 0"
        )
    name = f"scenes-v{_VERSION}-seed{seed}-{train}-{test}-{objects}-{characters}.npz"
    arrays = load_or_make((data_dir or cache_dir()) / name, lambda: _draw_sets(train, test, objects, characters, seed))
    training, held_out = _describe(arrays, "train", (seed, 0)), _describe(arrays, "test", (seed, 1))
    return encode(training, held_out, vocabulary=1000, length=32)


def _draw_sets(train: int, test: int, objects: int, characters: int, seed: int) -> Arrays:
    arrays: dict[str, NDArray[np.uint8]] = {}
    with progress_bar(total=train + test, desc="drawing scenes", unit="scene") as progress:
        for position, (name, size, faces) in enumerate([("train", train, TRAINING_FACES), ("test", test, TEST_FACES)]):
            images = np.empty((size, 3, _SIDE, _SIDE), np.uint8)
            boxes, names = np.empty((size, objects, 4), np.uint8), np.empty((size, objects, 2), np.uint8)
            for index in range(size):
                rng = np.random.default_rng((seed, position, index))
                images[index], boxes[index], names[index] = _draw(objects, characters, faces, rng)
                progress.update()
            arrays |= {f"{name}_images": images, f"{name}_boxes": boxes, f"{name}_names": names}
    return arrays


def _draw(
    objects: int, characters: int, faces: tuple[str, ...], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image, and return it with each object's box and the numbers of its colour and its character."""
    colours = rng.choice(len(COLOURS), _PALETTE[0], replace=False)
    pairs = np.array(list(product(colours, rng.choice(characters, _PALETTE[1], replace=False))))
    names = pairs[rng.choice(len(pairs), objects, replace=False)]
    cells = rng.choice(_GRID**2, objects, replace=False)
    image = rng.uniform(*_GREY, 3) + rng.uniform(*_TEXTURE) * texture(rng, _SIDE)
    boxes = np.empty((objects, 4), np.uint8)
    for index, ((colour, character), cell) in enumerate(zip(names, cells, strict=True)):
        cover = coverage(CHARACTERS[character], faces, rng, _CELL, _FONT_SIZE, shift=0.0)
        rows, columns = (np.flatnonzero((cover > _INK).any(axis)) for axis in (1, 0))
        ink = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = ink.shape
        top = cell // _GRID * _CELL + rng.integers(_CELL - height + 1)
        left = cell % _GRID * _CELL + rng.integers(_CELL - width + 1)
        level = np.array(list(COLOURS.values())[colour]) + _COLOUR_DEVIATION * rng.standard_normal(3)
        part = image[top : top + height, left : left + width]
        part += ink[..., None] * (level - part)
        boxes[index] = left, top, left + width, top + height
    image += rng.uniform(*_NOISE) * rng.standard_normal(image.shape)
    return image.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1), boxes, names.astype(np.uint8)


def _describe(arrays: Arrays, name: str, seed: tuple[int, int]) -> Described:
    """Write the sentences of a set."""
    sentences: list[tuple[int, list[str]]] = []
    phrases: list[tuple[int, list[str], Box]] = []
    for index, (boxes, names) in enumerate(zip(arrays[f"{name}_boxes"], arrays[f"{name}_names"], strict=True)):
        rng = np.random.default_rng((*seed, index, 1))  # another one than draws the image
        centres = (boxes[:, :2].astype(float) + boxes[:, 2:]) / 2
        told: dict[str, int] = {}
        for _ in range(SENTENCES):
            order = rng.permutation(len(names))
            called = [_call(names[place], rng) for place in order]
            told |= dict(zip(called, order.tolist(), strict=True))
            sentences.append((index, _sentence(called, centres[order], rng).split()))
        phrases += [(index, words.split(), tuple(boxes[place].tolist())) for words, place in told.items()]
    return Described(torch.from_numpy(arrays[f"{name}_images"]), sentences, phrases)


def _call(name: NDArray[np.uint8], rng: np.random.Generator) -> str:
    """Put the numbers of a colour and a character into words, in one of two ways."""
    colour, character = list(COLOURS)[name[0]], CHARACTERS[name[1]]
    return f"the {colour} {character}" if rng.integers(2) else f"the {character} in {colour}"


def _sentence(called: list[str], centres: NDArray[np.float64], rng: np.random.Generator) -> str:
    """Tell how the first object stands to the second, or list three."""
    form = rng.integers(4 if len(called) > 2 else 3)
    if form == 3:
        return f"{called[0]} , {called[1]} and {called[2]}"
    difference = centres[0] - centres[1]
    along = int(abs(difference[1]) > abs(difference[0]))  # the axis that they lie further apart on
    step = (0, np.sign(difference[1])) if along else (np.sign(difference[0]), 0)
    relation = _RELATIONS[step]
    return (
        f"{called[0]} {relation} {called[1]}",
        f"{called[0]} is {relation} {called[1]}",
        f"{called[1]} with {called[0]} {relation} it",
    )[form]
