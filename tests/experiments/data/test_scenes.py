"""Scenes: images that are drawn, with sentences, phrases and boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shapeshift.errors import ConfigError
from shapeshift.experiments.data import CAPTIONED
from shapeshift.experiments.data import scenes as drawing
from shapeshift.experiments.data.glyphs import CHARACTERS
from shapeshift.experiments.data.scenes import COLOURS, scenes
from tests.captioned import words_of
from tests.tolerances import assert_close


def test_the_data_sets_of_captioned_images_have_names() -> None:
    assert list(CAPTIONED) == ["emoji", "flickr30k", "scenes"]


def test_scenes_have_sentences_phrases_and_boxes(tmp_path: Path) -> None:
    training, test = scenes(tmp_path, train=30, test=10)
    assert training.images.shape == (30, 3, 48, 48)
    assert test.images.shape == (10, 3, 48, 48)
    std, mean = torch.std_mean(training.images, dim=(0, 2, 3))
    assert_close(mean, torch.zeros(3), "reordered")
    assert_close(std, torch.ones(3), "reordered")
    assert training.sentences.images.bincount().tolist() == [5] * 30
    assert training.vocabulary == test.vocabulary
    # Each object is named in one or both of two ways.
    assert set(training.phrases.images.bincount().tolist()) <= {3, 4, 5, 6}
    for image in range(30):
        boxes = training.phrases.boxes[training.phrases.images == image].unique(dim=0)
        assert len(boxes) == 3
        overlapping = (boxes[:, None, :2] < boxes[:, 2:]).all(2) & (boxes[:, :2] < boxes[:, None, 2:]).all(2)
        assert torch.equal(overlapping, torch.eye(3, dtype=torch.bool))


def test_sentences_about_a_scene_are_true(tmp_path: Path) -> None:
    data, _ = scenes(tmp_path, train=40, test=1)
    checks: dict[str, Callable[[Tensor], Any]] = {
        "to the left of": lambda step: step[0] < 0 and abs(step[0]) >= abs(step[1]),
        "to the right of": lambda step: step[0] > 0 and abs(step[0]) >= abs(step[1]),
        "above": lambda step: step[1] < 0 and abs(step[1]) > abs(step[0]),
        "below": lambda step: step[1] > 0 and abs(step[1]) > abs(step[0]),
    }
    seen = dict.fromkeys([*checks, "with", "is", "and"], 0)
    for tokens, image in zip(data.sentences.tokens, data.sentences.images, strict=True):
        text = words_of(data, tokens)
        own = data.phrases.images == image
        centres = {
            words_of(data, phrase): (box[:2] + box[2:]) / 2
            for phrase, box in zip(data.phrases.tokens[own], data.phrases.boxes[own], strict=True)
        }
        # Names in the order of the sentence: none is a part of another one.
        names = sorted((name for name in centres if name in text), key=text.index)
        if " and " in text:
            assert text == f"{names[0]} , {names[1]} and {names[2]}"
            seen["and"] += 1
            continue
        first, second = names
        (relation,) = (words for words in checks if words in text)
        if "with" in text:
            assert text == f"{first} with {second} {relation} it"
            first, second = second, first
        else:
            assert text.replace(" is ", " ") == f"{first} {relation} {second}"
        assert checks[relation](centres[first] - centres[second]), text
        seen[relation] += 1
        seen["with"] += "with" in text
        seen["is"] += " is " in text
    assert min(seen.values()) > 5, seen


def test_objects_have_the_colours_that_they_are_named_after(tmp_path: Path) -> None:
    scenes(tmp_path, train=60, test=1)
    (path,) = tmp_path.iterdir()
    with np.load(path) as file:
        images, boxes, names = (file[f"train_{part}"] for part in ("images", "boxes", "names"))
    levels = np.array(list(COLOURS.values()), float)
    assert names[..., 1].max() < 20 < len(CHARACTERS)
    right = total = 0
    for image, found, named in zip(images, boxes, names, strict=True):
        for (left, top, rightmost, bottom), (colour, _) in zip(found, named, strict=True):
            pixels = image[:, top:bottom, left:rightmost].reshape(3, -1).T.astype(float)
            # Ink is what is furthest from the background; the named colour is the nearest to some of it.
            distance = np.linalg.norm(pixels[:, None] - levels, axis=2)
            right += np.quantile(distance[:, colour], 0.1) < 60
            total += 1
    assert right > 0.9 * total


def test_a_set_of_scenes_begins_as_every_larger_one_and_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = scenes(tmp_path / "few", train=4, test=2)
    scenes(tmp_path / "many", train=6, test=3)
    (small,), (large,) = (list((tmp_path / folder).iterdir()) for folder in ("few", "many"))
    with np.load(small) as one, np.load(large) as other:
        for name in one:
            assert np.array_equal(one[name], other[name][: len(one[name])])
    monkeypatch.delattr(drawing, "_draw_sets")
    again = scenes(tmp_path / "few", train=4, test=2)
    for first, second in zip(few, again, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.sentences.tokens, second.sentences.tokens)
        assert torch.equal(first.phrases.boxes, second.phrases.boxes)


@pytest.mark.parametrize(
    "options", [{"train": 0}, {"test": 0}, {"objects": 1}, {"objects": 7}, {"characters": 2}, {"seed": -1}]
)
def test_scenes_that_cannot_be_drawn_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="2 to 6 objects, 3 to 100 characters"):
        scenes(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_two_objects_are_never_listed(tmp_path: Path) -> None:
    data, _ = scenes(tmp_path, train=20, test=1, objects=2)
    texts = [words_of(data, tokens) for tokens in data.sentences.tokens]
    assert len(texts) == 100
    assert not [text for text in texts if " and " in text]
