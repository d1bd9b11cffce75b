"""Flickr30k, read from its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data.flickr30k import flickr30k, split_words
from tests.captioned import words_of

ENTRIES: list[dict[str, Any]] = [
    {"filename": "a.jpg", "split": "train", "sentences": [{"tokens": ["A", "man"]}, {"raw": "A man, in red."}]},
    {"filename": "b.jpg", "split": "restval", "sentences": [{"tokens": ["a", "dog"], "raw": "ignored"}]},
    {"filename": "c.jpg", "split": "val", "filepath": "more", "sentences": [{"raw": "a cat"}]},
    {"filename": "d.jpg", "split": "test", "sentences": [{"raw": "One man!"}]},
]


SIZES = {"a.jpg": (20, 10), "b.jpg": (16, 16), "more/c.jpg": (8, 32), "d.jpg": (40, 20)}


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """Write a folder as users have it."""
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": ENTRIES, "dataset": "flickr30k"}))
    for index, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / "flickr30k-images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (80 * index, 10, 20)).save(path, quality=95)
    return tmp_path


def test_flickr30k_is_read_from_its_files(flickr: Path) -> None:
    training, test = flickr30k(flickr, side=8)
    assert training.images.shape == (2, 3, 8, 8)
    assert test.images.shape == (1, 3, 8, 8)
    assert training.images[0, 0, 4, 4] < training.images[1, 0, 4, 4] < test.images[0, 0, 4, 4]
    assert [words_of(training, tokens) for tokens in training.sentences.tokens] == ["a man", "a man in red", "a dog"]
    assert training.sentences.images.tolist() == [0, 0, 1]
    # "One" is not in the training set, and the sentence is padded to the longest one of it.
    assert test.sentences.tokens.tolist() == [[1, 2 + training.vocabulary.words.index("man"), 0, 0]]
    assert not len(training.phrases.tokens)
    _, validation = flickr30k(flickr, side=8, test="val", length=1)
    assert [words_of(validation, tokens) for tokens in validation.sentences.tokens] == ["a"]


def test_words_are_split_as_in_karpathys_file() -> None:
    assert split_words("Two men, in RED  caps (24).") == ["two", "men", "in", "red", "caps", "24"]


def test_phrases_are_read_from_json(flickr: Path) -> None:
    listed = {"a.jpg": [{"phrase": "A man", "boxes": [[0, 0, 5, 5], [10, 2, 30, 10]]}], "d.jpg": []}
    (flickr / "phrases.json").write_text(json.dumps(listed))
    training, test = flickr30k(flickr, side=8)
    assert [words_of(training, tokens) for tokens in training.phrases.tokens] == ["a man"]
    assert training.phrases.images.tolist() == [0]
    # Around both, cut to the image of 20 x 10, and scaled with it.
    assert training.phrases.boxes.tolist() == [[0, 0, 8, 8]]
    assert not len(test.phrases.tokens)


def write_entities(folder: Path, boxes: str) -> None:
    """Write the two files of each image in the format of Flickr30K Entities."""
    for name in ("a", "b", "d"):
        for part in ("Sentences", "Annotations"):
            (folder / "Flickr30kEntities" / part).mkdir(parents=True, exist_ok=True)
        text = "[/EN#1/people/other A man] at [/EN#0/notvisual night] with [/EN#2/other -] [/EN#3/scene a road] .\n"
        (folder / "Flickr30kEntities" / "Sentences" / f"{name}.txt").write_text(text if name == "a" else "Nothing .\n")
        content = f"<annotation><filename>{name}.jpg</filename>{boxes if name == 'a' else ''}</annotation>"
        (folder / "Flickr30kEntities" / "Annotations" / f"{name}.xml").write_text(content)


def box_xml(name: int, *edges: object) -> str:
    tags = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>"


def test_phrases_are_read_from_flickr30k_entities(flickr: Path) -> None:
    scene = "<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    write_entities(flickr, box_xml(1, 6, 1, 10, 5) + box_xml(1, 9, 3, 15, 5) + box_xml(2, 1, 1, 2, 2) + scene)
    training, test = flickr30k(flickr, side=40)
    # The scene has no box, and the other phrase no words.
    assert [words_of(training, tokens) for tokens in training.phrases.tokens] == ["a man"]
    # Pixels 6 to 15 and 1 to 5 of 20 x 10, counted from 1, in an image that is 2 and 4 times as large.
    assert training.phrases.boxes.tolist() == [[10, 0, 30, 20]]
    assert not len(test.phrases.tokens)


def change(**changes: Any) -> Callable[[Path], None]:
    """Replace parts of the first image's entry."""

    def write(folder: Path) -> None:
        content = {"images": [{**ENTRIES[0], **changes}, *ENTRIES[1:]]}
        (folder / "dataset_flickr30k.json").write_text(json.dumps(content))

    return write


def write_phrases(content: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "phrases.json").write_text(json.dumps(content)) and None


def write_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "dataset_flickr30k.json").unlink(), r"dataset_flickr30k\.json is missing"),
        (write_text("dataset_flickr30k.json", "{"), "is no JSON file"),
        (write_text("dataset_flickr30k.json", "[1]"), "has no list 'images'"),
        (write_text("dataset_flickr30k.json", '{"images": [3]}'), r"images\[0\] is no dict"),
        (change(filename=""), r"images\[0\] has no 'filename'"),
        (change(sentences=[]), r"images\[0\] has no 'sentences'"),
        (change(split="dev"), r"images\[0\] is in the split 'dev'.*'train'"),
        (change(sentences=[{"raw": "a"}, {"tokens": [1]}]), r"images\[0\]\.sentences\[1\] has neither"),
        (change(sentences=[{"raw": "..."}]), r"images\[0\]\.sentences\[0\] has no words"),
        (change(filename="z.jpg"), r"z\.jpg, which dataset_flickr30k\.json names, cannot be read"),
        (write_text("flickr30k-images/a.jpg", "no image"), r"a\.jpg, which .* cannot be read"),
        (write_phrases([]), "is no dict from an image's file name"),
        (write_phrases({"a.jpg": {}}), "'a.jpg' is no list"),
        (write_phrases({"a.jpg": [{"phrase": "."}]}), r"'a.jpg'\[0\] has no 'phrase'"),
        (write_phrases({"a.jpg": [{"phrase": "a man"}]}), r"'a.jpg'\[0\] has no 'boxes'"),
        (write_phrases({"a.jpg": [{"phrase": "a man", "boxes": [[1, 2, 3]]}]}), "has no 'boxes'"),
        (write_phrases({"a.jpg": [{"phrase": "a man", "boxes": [[30, 0, 40, 10]]}]}), "'a man' of .* 20 x 10 pixels"),
        (partial(write_entities, boxes=box_xml(1, 1, 1, "two", 2)), "needs the numbers xmin"),
        (partial(write_entities, boxes="<object>"), r"a\.xml cannot be read"),
        (lambda folder: (folder / "Flickr30kEntities").mkdir(), r"a\.xml cannot be read"),
    ],
)
def test_files_that_are_not_flickr30k_are_refused(flickr: Path, damage: Callable[[Path], None], words: str) -> None:
    flickr30k(flickr, side=4)
    damage(flickr)
    with pytest.raises(DataError, match=words):
        flickr30k(flickr, side=4, test="test")


def test_a_missing_folder_split_or_word_is_refused(flickr: Path) -> None:
    with pytest.raises(DataError, match=r"say in which folder they are \(data_dir\)"):
        flickr30k()
    with pytest.raises(ConfigError, match="side=0"):
        flickr30k(flickr, side=0)
    with pytest.raises(ConfigError, match="test='train'"):
        flickr30k(flickr, test="train")
    with pytest.raises(ConfigError, match="vocabulary=2, length=32"):
        flickr30k(flickr, vocabulary=2)
    content = {"images": [entry for entry in ENTRIES if entry["split"] != "val"]}
    (flickr / "dataset_flickr30k.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no image in the split 'val'"):
        flickr30k(flickr, test="val")
