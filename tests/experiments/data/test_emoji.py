"""Emoji, read from a short list and drawn from a font of outlines, and those of Debian's packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import font_manager

from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data import CAPTIONED, CaptionedImages
from shapeshift.experiments.data import emoji as module
from shapeshift.experiments.data.emoji import FONT, NAMES, _read, emoji
from tests.captioned import words_of
from tests.tolerances import assert_close

LIST = """\
# group: Smileys & Emotion
1F600          ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F      ; fully-qualified     # ☺️ E0.6 smiling face
263A           ; unqualified         # ☺ E0.6 smiling face

# subgroup: person
1F471 1F3FF    ; fully-qualified     # 👱🏿 E1.0 person: dark skin tone, blond hair
1F1FB 1F1EA    ; fully-qualified     # 🇻🇪 E2.0 flag: Venezuela
26F3           ; fully-qualified     # ⛳ E0.6 flag in hole
0023 FE0F 20E3 ; fully-qualified     # #️⃣ E0.6 keycap: #
1F3FB          ; component           # 🏻 E1.0 light skin tone
"""

NAMED = {
    "sun": "2600",
    "cloud": "2601",
    "star": "2605",
    "hand": "261E",
    "hand: light skin tone": "261F",
    "hand: medium-light skin tone": "270C",
    "hand: dark skin tone": "270D",
    "skull": "2620",
    "sign: #": "2622",
    "sign: *": "2623",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shapeshift"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a short list of emoji, and a font that has outlines of them, under the names of the packages."""
    write(tmp_path, NAMED)
    shutil.copy(font_manager.findfont("DejaVu Sans"), tmp_path / FONT.pattern)
    return tmp_path


def write(folder: Path, named: dict[str, str]) -> None:
    lines = [f"{codes} ; fully-qualified # x E1.0 {name}\n" for name, codes in named.items()]
    (folder / NAMES.pattern).write_text("".join(lines), encoding="utf-8")


def captions(data: CaptionedImages) -> list[str]:
    return [words_of(data, tokens) for tokens in data.sentences.tokens]


def test_the_list_has_names_and_characters(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(LIST, encoding="utf-8")
    assert list(_read(tmp_path / "list.txt")) == [
        ("grinning face", "😀"),
        ("smiling face", "☺️"),
        ("person: dark skin tone, blond hair", "👱🏿"),
        ("flag in hole", "⛳"),
        ("keycap: #", "#️⃣"),
    ]


def test_each_picture_has_its_name(folder: Path) -> None:
    training, test = CAPTIONED["emoji"](folder, seed=1)
    assert training.images.shape[1:] == test.images.shape[1:] == (3, 32, 32)
    assert training.sentences.images.tolist() == list(range(len(training)))
    assert not len(training.phrases.tokens)
    assert_close(training.images.mean((0, 2, 3)), torch.zeros(3), "reordered")
    # The two signs have the same words, and the first one is drawn.
    assert len(training) + len(test) == len(NAMED) - 1
    write(folder, {name: codes for name, codes in NAMED.items() if name != "sign: *"})
    assert torch.equal(emoji(folder, seed=1)[0].images, training.images)


def test_pictures_are_on_white_with_ink_in_the_middle(folder: Path) -> None:
    images = np.stack([*module._pictures(folder / FONT.pattern, ["\u2605", "\u2620"], 8).values()])
    assert (images[:, :, :, (0, -1)] == 255).all()
    assert (images[:, :, 3:5, 3:5].mean((1, 2, 3)) < 200).all()
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("seed", range(6))
def test_skin_tones_of_a_name_are_in_one_set(folder: Path, seed: int) -> None:
    training, test = emoji(folder, side=4, seed=seed)
    tones = [sum("tone" in caption for caption in captions(training)), len(test)]
    assert tones in ([3, 1], [0, 4])  # one name of six is the test set


def test_the_split_follows_the_seed(folder: Path) -> None:
    first, again, other = (captions(emoji(folder, side=4, seed=seed)[0]) for seed in (0, 0, 1))
    assert first == again != other


def test_validation_takes_its_emoji_from_the_training_set(folder: Path) -> None:
    write(folder, {name: codes for name, codes in NAMED.items() if "tone" not in name})
    training, test = emoji(folder, side=4)
    rest, validation = emoji(folder, side=4, validation=True)
    assert (len(training), len(test), len(rest), len(validation)) == (5, 1, 4, 1)
    assert set(captions(rest)) < set(captions(training))


def test_pictures_are_drawn_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = emoji(folder, side=4)
    emoji(folder, side=8)
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(module, "_draw_all", None)
    assert torch.equal(emoji(folder, side=4)[0].images, first.images)


@pytest.mark.parametrize(
    ("codes", "named"),
    [("1F468 200D 2695 FE0F 1F468", "1F468 200D 2695 FE0F 1F468"), ("0020", "20")],
    ids=["several pictures", "no ink"],
)
def test_emoji_without_a_single_picture_are_refused(folder: Path, codes: str, named: str) -> None:
    write(folder, NAMED | {"man health worker": codes})
    with pytest.raises(DataError, match=f"{FONT.pattern} has no single picture of the emoji {named}: take a font"):
        emoji(folder)


def test_folders_that_have_no_emoji_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match="apt-get install fonts-noto-color-emoji unicode-data"):
        emoji(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ConfigError, match="side=0"):
        emoji(folder, side=0)
    write(folder, {"sun": "2600", "sun: dark skin tone": "2601"})
    with pytest.raises(DataError, match=r"emoji-test\.txt has 1 emoji of different names"):
        emoji(folder)
    write(folder, NAMED)
    (folder / FONT.pattern).write_bytes(b"no font")
    with pytest.raises(DataError, match=r"NotoColorEmoji\.ttf cannot be read as a font of 109 pixels"):
        emoji(folder)
    (folder / NAMES.pattern).write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"emoji-test\.txt cannot be read as UTF-8"):
        emoji(folder)


@pytest.mark.skipif(not NAMES.folder.exists(), reason="needs Debian's package unicode-data")
def test_the_package_has_as_many_emoji_as_the_documentation_says() -> None:
    assert len(dict(_read(NAMES.files()[0]))) >= 3655 - 261


@pytest.mark.skipif(not FONT.folder.exists(), reason="needs Debian's package fonts-noto-color-emoji")
def test_the_package_draws_in_colour() -> None:
    images = module._pictures(FONT.files()[0], ["\U0001f600", "\U0001f468\u200d\u2695\ufe0f"], 16)
    assert all((picture[0] > picture[2]).any() for picture in images.values())
