"""Flickr30K, and other sets of captioned images in files of the same form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.captions import CAPTIONED, Box, CaptionedImages, Described, encode
from shapeshift.experiments.data.flickr30k_entities import entity_phrases
from shapeshift.experiments.data.vocabulary import Words

SENTENCES = "dataset_flickr30k.json"
IMAGES = "flickr30k-images"
PHRASES = "phrases.json"
ENTITIES = "Flickr30kEntities"

# The splits as the file names them. COCO has a second training split, from its validation set.
_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


@CAPTIONED.register("flickr30k")
def flickr30k(
    data_dir: Path | None = None, side: int = 64, vocabulary: int = 10_000, length: int = 32, test: str = "test"
) -> tuple[CaptionedImages, CaptionedImages]:
    """Read images, sentences and phrases of Flickr30K (Young et al. 2014) and Flickr30K Entities (Plummer et al. 2015).

    The folder holds

    * ``dataset_flickr30k.json``, the splits of Karpathy and Fei-Fei 2015: a dict with the list ``images``. Each image
      is a dict with ``filename``, ``split`` ("train", "val" or "test") and ``sentences``. Each sentence has ``tokens``,
      a list of words, or else ``raw``, a string. An image may have ``filepath``, the folder of its file.
    * ``flickr30k-images``, the image files.
    * for phrases, ``Flickr30kEntities`` with the folders ``Sentences`` and ``Annotations``, or ``phrases.json``: a dict
      from the name of an image's file to a list of dicts with ``phrase``, a string, and ``boxes``, a list of left, top,
      right and bottom edges in pixels of the file. Without either there are no phrases. A phrase with several boxes
      gets the box around all of them.

    Args:
        data_dir: The folder.
        side: The height and the width in pixels. The whole image is resized to them.
        vocabulary: The number of different tokens, including those for padding and unknown words.
        length: The largest number of tokens of a text. The rest of a longer text is dropped.
        test: The split for the test set, "test" or "val".

    Returns:
        The training set and the test set, each channel standardised by its mean and standard deviation over the
        training set.

    Raises:
        ConfigError: if the side is less than 1, the split is unknown, or a text has no room for a word.
        DataError: if a file is missing, damaged, or not of this form.

    Example:
        >>> from pathlib import Path
        >>> from shapeshift.experiments.data.flickr30k import flickr30k
        >>> training, test = flickr30k(Path("flickr30k"), side=64)  # doctest: +SKIP
    """
    if side < 1 or test not in ("val", "test"):
        raise ConfigError(f"flickr30k with side={side}, test={test!r}: give a side from 1, and 'val' or 'test'")
    if data_dir is None:
        raise DataError("the data set 'flickr30k' is read from files: say in which folder they are (data_dir)")
    entries = _read_entries(data_dir / SENTENCES)
    phrases = _PhraseFiles.find(data_dir)
    described = [
        _describe([entry for entry in entries if entry.split in _SPLITS[split]], split, data_dir, phrases, side)
        for split in ("train", test)
    ]
    return encode(described[0], described[1], vocabulary, length)


@dataclass(frozen=True)
class _Entry:
    """An image of the file with the splits."""

    name: str
    folder: str
    split: str
    sentences: list[list[str]]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put the file there") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON file: {error}") from error


def _read_entries(path: Path) -> list[_Entry]:
    content = _read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise DataError(f"{path} has no list 'images': it has to be a dict with a list of one dict per image")
    entries = [_entry(image, f"{path}: images[{index}]") for index, image in enumerate(images)]
    known = {name for names in _SPLITS.values() for name in names}
    for index, entry in enumerate(entries):
        if entry.split not in known:
            raise DataError(f"{path}: images[{index}] is in the split {entry.split!r}; use one of {sorted(known)}")
    return entries


def _entry(image: Any, place: str) -> _Entry:
    if not isinstance(image, dict):
        raise DataError(f"{place} is no dict")
    for key, kind in (("filename", str), ("split", str), ("sentences", list)):
        if not isinstance(image.get(key), kind) or not image[key]:
            raise DataError(f"{place} has no {key!r}: give a {kind.__name__} that is not empty")
    sentences = [_words(sentence, f"{place}.sentences[{index}]") for index, sentence in enumerate(image["sentences"])]
    return _Entry(image["filename"], str(image.get("filepath", "")), image["split"], sentences)


def _words(sentence: Any, place: str) -> list[str]:
    tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        words = [token.lower() for token in tokens]
    elif isinstance(sentence, dict) and isinstance(sentence.get("raw"), str):
        words = split_words(sentence["raw"])
    else:
        raise DataError(f"{place} has neither 'tokens', a list of strings, nor 'raw', a string")
    if not words:
        raise DataError(f"{place} has no words")
    return words


def split_words(text: str) -> list[str]:
    """Split a text into words, runs of letters and digits in lower case, and drop the rest, as Karpathy's tokens do."""
    return re.findall(r"\w+", text.lower())


@dataclass(frozen=True)
class _PhraseFiles:
    """The source of the phrases.

    Attributes:
        entities: The folder of Flickr30K Entities, or None if there is none.
        listed: The content of ``phrases.json``, by the name of the image's file.
        path: The path of ``phrases.json``.
    """

    entities: Path | None
    listed: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path(PHRASES)

    @classmethod
    def find(cls, folder: Path) -> _PhraseFiles:
        if (folder / PHRASES).exists():
            listed = _read_json(folder / PHRASES)
            if not isinstance(listed, dict):
                raise DataError(f"{folder / PHRASES} is no dict from an image's file name to its phrases")
            return cls(None, listed, folder / PHRASES)
        return cls(folder / ENTITIES if (folder / ENTITIES).is_dir() else None)

    def read(self, name: str) -> Iterator[tuple[Words, Box]]:
        """Yield the phrases of an image, with their boxes in pixels of its file."""
        if self.entities:
            for phrase, box in entity_phrases(self.entities, Path(name).stem):
                if named := split_words(phrase):
                    yield named, box
        found = self.listed.get(name, [])
        if not isinstance(found, list):
            raise DataError(f"{self.path}: {name!r} is no list of phrases")
        for index, item in enumerate(found):
            place = f"{self.path}: {name!r}[{index}]"
            text = item.get("phrase") if isinstance(item, dict) else None
            words = split_words(text) if isinstance(text, str) else []
            if not words:
                raise DataError(f"{place} has no 'phrase', a string with words")
            yield words, _around(item.get("boxes"), place)


def _around(boxes: Any, place: str) -> Box:
    try:
        corners = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 4 or not len(corners):
        raise DataError(f"{place} has no 'boxes': give a list of [left, top, right, bottom]")
    return (*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist())


def _describe(entries: list[_Entry], split: str, folder: Path, phrases: _PhraseFiles, side: int) -> Described:
    if not entries:
        raise DataError(f"{folder / SENTENCES} has no image in the split {split!r}")
    images = np.empty((len(entries), 3, side, side), np.uint8)
    found: list[tuple[int, Words, Box]] = []
    for index, entry in enumerate(entries):
        path = folder / IMAGES / entry.folder / entry.name
        try:
            with Image.open(path) as image:
                width, height = image.size
                resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        except OSError as error:
            raise DataError(f"{path}, which {SENTENCES} names, cannot be read as an image: {error}") from error
        images[index] = np.asarray(resized).transpose(2, 0, 1)
        for words, (left, top, right, bottom) in phrases.read(entry.name):
            inside = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
            if not (inside[0] < inside[2] and inside[1] < inside[3]):
                raise DataError(
                    f"the phrase {' '.join(words)!r} of {path} has the box {[left, top, right, bottom]}: give "
                    f"left < right and top < bottom, inside of its {width} x {height} pixels"
                )
            across, down = side / width, side / height
            found.append((index, words, (inside[0] * across, inside[1] * down, inside[2] * across, inside[3] * down)))
    sentences = [(index, words) for index, entry in enumerate(entries) for words in entry.sentences]
    return Described(torch.from_numpy(images), sentences, found)
