"""The data sets, drawn and read: from files that the tests write in the formats that users have them in."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from benchmarks import glyph_difficulty
from benchmarks.results import RESULTS
from shapeshift.errors import ConfigError, DataError, MissingExtraError
from shapeshift.experiments.data import DATASETS, Images
from shapeshift.experiments.data import glyphs as drawing
from shapeshift.experiments.data.base import standardise
from shapeshift.experiments.data.cifar import cifar10, cifar100
from shapeshift.experiments.data.glyphs import CHARACTERS, TEST_FACES, TRAINING_FACES, glyphs
from shapeshift.experiments.data.image_folder import image_folder
from tests.tolerances import assert_close


def assert_standardised(training: Images) -> None:
    assert training.images.dtype == torch.float32
    std, mean = torch.std_mean(training.images, dim=(0, 2, 3))
    assert_close(mean, torch.zeros(training.channels), "reordered")
    assert_close(std, torch.ones(training.channels), "reordered")


def test_the_data_sets_have_names() -> None:
    assert list(DATASETS) == ["cifar10", "cifar100", "digits", "glyphs", "image_folder"]
    training, test = DATASETS["digits"]()
    assert training.num_classes == test.num_classes == 10
    assert training.channels == test.channels == 1


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 8, 8), torch.zeros(2), "shape .N, channels"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3), "shape .3,."),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0), "at least one"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, 5]), "labels from 0 to 5 for 5 classes"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([-1, 4]), "labels from -1"),
    ],
)
def test_what_is_no_labelled_set_is_refused(images: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Images(images, labels, num_classes=5)


def test_the_training_set_decides_how_both_are_standardised() -> None:
    training = Images(torch.tensor([0, 2, 7, 7]).view(2, 2, 1, 1).repeat(1, 1, 2, 2), torch.arange(2), 2)
    training.images[:, 1] = 7
    values = training.images[:, 0].clone()
    test = Images(torch.full((1, 2, 2, 2), 9), torch.zeros(1), 2)
    scaled_training, scaled_test = standardise(training, test)
    std, mean = torch.std_mean(values.float())
    assert_close(scaled_training.images[:, 0], (values - mean) / std, "reordered")
    assert_close(scaled_test.images[:, 0], ((9 - mean) / std).expand(1, 2, 2), "reordered")
    # A channel that is constant is only shifted.
    assert_close(scaled_training.images[:, 1], torch.zeros(2, 2, 2), "identical")
    assert_close(scaled_test.images[:, 1], torch.full((1, 2, 2), 2.0), "identical")
    assert training.images.dtype == torch.int64


def kept(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the only file of a cache."""
    (path,) = folder.iterdir()
    with np.load(path) as file:
        return dict(file)


def test_glyphs_have_the_shape_of_cifar(tmp_path: Path) -> None:
    training, test = glyphs(tmp_path, train=200, test=100)
    assert training.images.shape == (200, 3, 32, 32)
    assert test.images.shape == (100, 3, 32, 32)
    assert training.num_classes == test.num_classes == 100
    assert Counter(training.labels.tolist()) == dict.fromkeys(range(100), 2)
    assert_standardised(training)
    assert {array.dtype for array in kept(tmp_path).values()} == {np.dtype(np.uint8)}


def test_a_set_of_glyphs_begins_as_every_larger_one_of_its_seed(tmp_path: Path) -> None:
    for folder, train, test, seed in [("few", 5, 3, 0), ("again", 5, 3, 0), ("many", 11, 7, 0), ("other", 5, 3, 1)]:
        glyphs(tmp_path / folder, train=train, test=test, seed=seed)
    few, again, many, other = (kept(tmp_path / folder) for folder in ("few", "again", "many", "other"))
    for name, images in few.items():
        assert np.array_equal(images, again[name])
        assert np.array_equal(images, many[name][: len(images)])
        assert not (images == other[name]).all(axis=(1, 2, 3)).any()
    assert not np.array_equal(few["train"][:3], few["test"])


def test_the_faces_of_the_test_set_are_new_and_their_families_are_not() -> None:
    assert not set(TEST_FACES) & set(TRAINING_FACES)
    assert {face.partition("-")[0] for face in TEST_FACES} == {face.partition("-")[0] for face in TRAINING_FACES}


@pytest.mark.parametrize("face", [*TRAINING_FACES, *TEST_FACES])
def test_every_face_has_a_hundred_characters(face: str) -> None:
    assert len(CHARACTERS) == 100
    masters = [drawing._master(face, character) for character in CHARACTERS]
    missing = drawing._master(face, "\U0010ffff")
    assert len({master.tobytes() for master in [*masters, missing]}) == 101
    for master in masters:
        left, top, right, bottom = master.getbbox()
        assert 0 < left < right < master.width
        assert 0 < top < bottom < master.height


def test_glyphs_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = glyphs(tmp_path, train=4, test=2)
    monkeypatch.delattr(drawing, "_draw_sets")
    read = glyphs(tmp_path, train=4, test=2)
    assert all(torch.equal(one.images, two.images) for one, two in zip(drawn, read, strict=True))


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:100], lambda data: data[:-10], lambda data: b"another file"],
    ids=["empty", "beginning", "truncated", "foreign"],
)
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    drawn = glyphs(tmp_path, train=4, test=2)
    (path,) = tmp_path.iterdir()
    intact = kept(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    repaired = glyphs(tmp_path, train=4, test=2)
    assert all(torch.equal(one.images, two.images) for one, two in zip(drawn, repaired, strict=True))
    assert all(np.array_equal(images, intact[name]) for name, images in kept(tmp_path).items())


def test_a_cache_that_cannot_be_written_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(file: object, **arrays: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        glyphs(tmp_path, train=4, test=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("variable", "folder"), [("XDG_CACHE_HOME", "shapeshift"), ("HOME", ".cache/shapeshift")])
def test_the_users_cache_is_where_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    glyphs(train=4, test=2)
    assert {name: len(images) for name, images in kept(tmp_path / folder).items()} == {"train": 4, "test": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: value}, "give sizes from 1") for name, value in (("train", 0), ("test", -1), ("seed", -1))),
        *(({"classes": classes}, "there are 100 characters") for classes in (0, 101)),
        *(({"side": side}, "give 32 or what divides it, such as 16") for side in (0, 20, 64)),
    ],
)
def test_glyphs_that_cannot_be_drawn_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        glyphs(tmp_path, **options)


def test_glyphs_can_be_fewer_characters_and_smaller_images(tmp_path: Path) -> None:
    training, test = glyphs(tmp_path, train=30, test=10, classes=10, side=16)
    assert training.images.shape == (30, 3, 16, 16)
    assert training.num_classes == test.num_classes == 10
    assert Counter(training.labels.tolist()) == dict.fromkeys(range(10), 3)
    assert_standardised(training)
    # The same images at full size, from the same file.
    large, _ = glyphs(tmp_path, train=30, test=10, classes=10)
    assert len(list(tmp_path.iterdir())) == 1
    means = large.images.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    deviations = (means - means.mean((0, 2, 3), keepdim=True)) / means.std((0, 2, 3), keepdim=True)
    assert_close(training.images, deviations, "reordered")
    # Every tenth of all characters.
    drawn = drawing._draw(CHARACTERS[30], TRAINING_FACES, np.random.default_rng((0, 0, 3)))
    assert np.array_equal(kept(tmp_path)["train"][3], drawn)


def write_cifar(folder: Path, dataset: type[datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Write files of two images each in the format of CIFAR, and return the first training image."""
    base, label_key = folder / dataset.base_folder, "fine_labels" if dataset is datasets.CIFAR100 else "labels"
    base.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content, protocol=2)
        (base / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    rng = np.random.default_rng(0)
    pixels = {}
    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(dataset, attribute):
            pixels[name] = rng.integers(0, 256, (2, 3 * 32 * 32), np.uint8)
            sums.append([name, write(name, {"data": pixels[name], label_key: [1, 3]})])
        monkeypatch.setattr(dataset, attribute, sums)
    names = [f"class {index}" for index in range(100 if dataset is datasets.CIFAR100 else 10)]
    md5 = write(dataset.meta["filename"], {dataset.meta["key"]: names})
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5})
    first: NDArray[np.uint8] = next(iter(pixels.values()))[0].reshape(3, 32, 32)
    return first


@pytest.mark.parametrize(
    ("load", "dataset", "sizes", "num_classes"),
    [(cifar10, datasets.CIFAR10, (10, 2), 10), (cifar100, datasets.CIFAR100, (2, 2), 100)],
)
def test_cifar_is_read_from_its_own_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[Path], tuple[Images, Images]],
    dataset: type[datasets.CIFAR10],
    sizes: tuple[int, int],
    num_classes: int,
) -> None:
    first = write_cifar(tmp_path, dataset, monkeypatch)
    training, test = load(tmp_path)
    assert (len(training.labels), len(test.labels)) == sizes
    assert training.num_classes == test.num_classes == num_classes
    assert training.images.shape[1:] == (3, 32, 32)
    assert training.labels[:2].tolist() == [1, 3]
    assert_standardised(training)
    # Scaling keeps the order of the pixels of a channel.
    for channel in range(3):
        expected = np.argsort(first[channel].ravel(), kind="stable")
        assert np.array_equal(np.argsort(training.images[0, channel].flatten().numpy(), kind="stable"), expected)


def test_cifar_that_is_missing_or_damaged_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"unpack https.*cifar-100-python.tar.gz") as missing:
        cifar100(tmp_path)
    assert str(tmp_path / "cifar-100-python") in str(missing.value)
    write_cifar(tmp_path, datasets.CIFAR10, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match="no intact CIFAR10"):
        cifar10(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "image_folder"])
def test_files_need_a_folder_and_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=f"'{name}' is read from files"):
        DATASETS[name]()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"shapeshift\[torchvision\]"):
        DATASETS[name](tmp_path)


def write_image(path: Path, width: int, height: int, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


@pytest.mark.parametrize("second", ["test", "val"])
def test_a_folder_of_images_is_read(tmp_path: Path, second: str) -> None:
    write_image(tmp_path / "train" / "cat" / "a.png", 20, 10, (250, 0, 0))
    write_image(tmp_path / "train" / "dog" / "b.png", 10, 20, (50, 100, 0))
    write_image(tmp_path / "train" / "dog" / "c.png", 8, 8, (0, 200, 0))
    write_image(tmp_path / second / "cat" / "d.png", 40, 40, (250, 0, 7))
    write_image(tmp_path / second / "dog" / "e.png", 9, 9, (0, 200, 0))
    training, test = image_folder(tmp_path, side=8)
    assert training.images.shape == (3, 3, 8, 8)
    assert test.images.shape == (2, 3, 8, 8)
    assert training.labels.tolist() == [0, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert training.num_classes == 2
    red, green, blue = training.images[:, :, 4, 4].unbind(1)
    assert red.argsort().tolist() == [2, 1, 0]
    assert green.argsort().tolist() == [0, 1, 2]
    assert not blue.any()
    assert_close(test.images[0, :2], training.images[0, :2], "identical")
    assert (test.images[0, 2] == 7).all()
    assert image_folder(tmp_path)[0].images.shape == (3, 3, 32, 32)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="side=0"):
        image_folder(tmp_path, side=0)
    with pytest.raises(DataError, match="no folder train"):
        image_folder(tmp_path)
    write_image(tmp_path / "train" / "cat" / "a.png", 8, 8, (1, 2, 3))
    with pytest.raises(DataError, match="no folder test or val"):
        image_folder(tmp_path)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no valid file for the classes cat"):
        image_folder(tmp_path)
    (tmp_path / "test" / "cat" / "b.png").write_text("no image")
    with pytest.raises(DataError, match=r"b\.png"):
        image_folder(tmp_path)
    write_image(tmp_path / "test" / "cat" / "b.png", 8, 8, (1, 2, 3))
    write_image(tmp_path / "test" / "dog" / "c.png", 8, 8, (1, 2, 3))
    with pytest.raises(DataError, match="only one of the two sets: dog"):
        image_folder(tmp_path)


def test_the_difficulty_of_glyphs_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "glyphs.json"
    sizes = ["--train", "64", "--test", "20", "--epochs", "1"]
    glyph_difficulty.main([*sizes, "--data-dir", str(tmp_path), "--output", str(output)])
    content = json.loads(output.read_text())
    assert 0 < content["test_error"] <= 100
    line = output.with_suffix(".md").read_text()
    assert line in capsys.readouterr().out
    assert f"{content['test_error']:.2f}% test error" in line
    assert "64 glyphs" in line


def test_the_committed_difficulty_is_what_it_should_be() -> None:
    content = json.loads((RESULTS / "glyph_difficulty.json").read_text())
    assert (content["train"], content["recipe"]["epochs"]) == (20_000, 20)
    assert 5 < content["test_error"] < 15
    assert (RESULTS / "glyph_difficulty.md").read_text() == glyph_difficulty.render(content)
