"""Scenes of coloured characters with sentences about their places: captioned images without files."""

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

SENTENCES = 5  # sentences of a scene, as in Flickr30K

# Raise this when the scenes change, so that an old cache is not read.
_VERSION = 1

# The objects are in different cells of a grid, at random places inside their cells.
_GRID = 3
_CELL = 16  # pixels
_SIDE = _GRID * _CELL
_FONT_SIZE = 11.0, 15.0  # pixels
_INK = 0.3  # the share of a pixel that a character has to cover for the pixel to belong to its box
# The numbers of colours and of characters in a scene. They are small, so that objects often differ in one of them only.
_PALETTE = 2, 3
_COLOUR_DEVIATION = 18.0  # the standard deviation in levels of an object's colour from the named one
_GREY = 95.0, 160.0  # the level of the background
_TEXTURE = 0.0, 45.0  # the largest deviation of the background in levels
_NOISE = 3.0, 20.0  # the standard deviation in levels

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

    A sentence names two objects by their colours and characters and says where one is relative to the other, or it
    lists three objects. The names of the objects are the phrases, each with the box around the object. The test set
    uses faces that the training set does not use. A smaller set is the first part of a larger one with the same seed.

    Args:
        data_dir: The folder to keep the images in. None means ``shapeshift`` in $XDG_CACHE_HOME or ~/.cache.
        train: The number of scenes in the training set.
        test: The number of scenes in the test set.
        objects: The number of characters in a scene, from 2 to 6.
        characters: The number of different characters in the data set, from 3 to 100.
        seed: The seed of all random choices.

    Returns:
        The training set and the test set, each channel standardised by its mean and standard deviation over the
        training set.

    Raises:
        ConfigError: if a size or the seed is out of its range.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.scenes import scenes
        >>> training, test = scenes(Path("data"), train=4, test=2)
        >>> training.images.shape
        torch.Size([4, 3, 48, 48])
        >>> len(test.sentences.tokens)
        10
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
    """Draw one image, and return it with each object's box and the indices of its colour and its character."""
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
    """Write the sentences and the phrases of a set."""
    sentences: list[tuple[int, list[str]]] = []
    phrases: list[tuple[int, list[str], Box]] = []
    for index, (boxes, names) in enumerate(zip(arrays[f"{name}_boxes"], arrays[f"{name}_names"], strict=True)):
        rng = np.random.default_rng((*seed, index, 1))  # not the generator of the image
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
    """Name an object by its colour and its character, in one of two ways."""
    colour, character = list(COLOURS)[name[0]], CHARACTERS[name[1]]
    return f"the {colour} {character}" if rng.integers(2) else f"the {character} in {colour}"


def _sentence(called: list[str], centres: NDArray[np.float64], rng: np.random.Generator) -> str:
    """Say where the first object is relative to the second, or list three objects."""
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
