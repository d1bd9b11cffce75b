"""Images with sentences: drawn and read, embedded, and found again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import shapeshift
from benchmarks.experiments.networks import Training, compressed
from benchmarks.experiments.retrieval import Retrieval
from benchmarks.experiments.two_branch import EmbNet, thinner
from benchmarks.row import Row
from benchmarks.tables import grounding as grounding_rows
from benchmarks.tables import retrieval as retrieval_rows
from shapeshift.budget import parse_budget
from shapeshift.errors import ConfigError, DataError
from shapeshift.experiments.data import CAPTIONED
from shapeshift.experiments.data import scenes as drawing
from shapeshift.experiments.data.captions import CaptionedImages, Phrases, Sentences
from shapeshift.experiments.data.flickr30k import flickr30k, split_words
from shapeshift.experiments.data.glyphs import CHARACTERS
from shapeshift.experiments.data.scenes import COLOURS, scenes
from shapeshift.experiments.data.vocabulary import Vocabulary
from shapeshift.experiments.tasks.retrieval import recall, retrieval_recalls, train_retrieval
from shapeshift.experiments.training import Recipe
from shapeshift.networks.embedding_network import EmbeddingNetwork, embedding_loss
from shapeshift.networks.text_encoder import CELLS, TextEncoder
from shapeshift.networks.trunk import WideTrunk
from tests.captioned import coloured
from tests.models import gradients
from tests.tolerances import assert_close

TINY = EmbNet("gru", width=0.25, words=8, state=16, hidden=24, embedding=16)
RECIPE = Recipe(epochs=15, batch_size=8, learning_rate=0.01, weight_decay=0.0, optimizer="adamw")


def words_of(data: CaptionedImages, tokens: Tensor) -> str:
    """Write the numbers of a text as words again."""
    return " ".join(data.vocabulary.words[number - 2] for number in tokens.tolist() if number)


def test_the_data_sets_of_captioned_images_have_names() -> None:
    assert list(CAPTIONED) == ["flickr30k", "scenes"]


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


def test_a_vocabulary_has_the_most_frequent_words() -> None:
    vocabulary = Vocabulary.most_frequent([["b", "a", "c"], ["c", "b"], ["d"]], size=5)
    assert vocabulary.words == ("b", "c", "a")
    assert len(vocabulary) == 5
    tokens = vocabulary.encode([["a", "d", "b"], ["c"], ["a", "b", "c", "b"]], length=3)
    assert tokens.tolist() == [[4, 1, 2], [3, 0, 0], [4, 2, 3]]


def set_of(**parts: Any) -> CaptionedImages:
    """Make a small set in which some parts are replaced."""
    whole: dict[str, Any] = {
        "images": torch.zeros(2, 3, 8, 8),
        "sentences": Sentences(torch.ones(2, 3, dtype=torch.long), torch.tensor([0, 1])),
        "phrases": phrases([0, 0, 8, 8]),
        "vocabulary": Vocabulary(()),
    }
    return CaptionedImages(**{**whole, **parts})


def phrases(box: list[float], image: int = 0) -> Phrases:
    return Phrases(torch.ones(1, 3, dtype=torch.long), torch.tensor([image]), torch.tensor([box]).float())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"images": torch.zeros(0, 3, 8, 8)}, "N > 0"),
        ({"images": torch.zeros(2, 8, 8)}, r"shape \(2, 8, 8\)"),
        ({"sentences": Sentences(torch.ones(1, 3).long(), torch.tensor([1]))}, "image 0 has no sentence"),
        ({"sentences": Sentences(torch.ones(2, 3).long(), torch.tensor([0, 2]))}, "sentence 1 is about none of 2"),
        ({"sentences": Sentences(torch.tensor([[1], [0]]), torch.tensor([0, 1]))}, "sentence 1 has no words"),
        ({"phrases": phrases([0, 0, 8, 8], image=-1)}, "phrase 0 is about none of 2"),
        ({"phrases": phrases([4, 0, 4, 8])}, r"phrase 0 has the box \[4.0, 0.0, 4.0, 8.0\] in an image of 8 x 8"),
        ({"phrases": phrases([0, 0, 8, 9])}, "inside of the image"),
        ({"phrases": phrases([-1, 0, 8, 8])}, "inside of the image"),
    ],
)
def test_what_is_no_set_of_captioned_images_is_refused(parts: dict[str, Any], words: str) -> None:
    set_of()
    with pytest.raises(DataError, match=words):
        set_of(**parts)


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


@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_change_what_is_read(cell: str) -> None:
    encoder = TextEncoder(9, 4, 6, cell)
    texts = [[3, 5, 2], [7], [4, 4]]
    tokens = torch.tensor([text + [0] * (5 - len(text)) for text in texts])
    read = encoder(tokens)
    assert read.shape == (3, 6)
    for text, state in zip(texts, read, strict=True):
        assert_close(state, encoder(torch.tensor([text]))[0], "reordered")
        assert_close(state, encoder.recurrent(encoder.words(torch.tensor([text])))[0][0, -1], "reordered")


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown cell 'rnn'; choose one of: gru, lstm"):
        TextEncoder(9, 4, 6, "rnn")


def test_the_trunk_is_a_wide_residual_network_without_its_head() -> None:
    trunk = WideTrunk(10, 0.5, in_channels=1, stem=8, stride=2)
    assert trunk(torch.randn(2, 1, 24, 32)).shape == (2, 32, 3, 4)
    assert (trunk.out_channels, trunk.stride) == (32, 8)
    assert not [module for module in trunk.modules() if isinstance(module, nn.Linear)]
    with pytest.raises(ConfigError, match=r"6n \+ 4"):
        WideTrunk(11, 1)


def embedding_network(cell: str = "gru") -> EmbeddingNetwork:
    return EmbeddingNetwork(WideTrunk(10, 0.25, stem=4), TextEncoder(20, 8, 12, cell), 12, hidden=16, embedding=10)


@pytest.mark.parametrize("cell", CELLS)
def test_embeddings_have_length_one_and_reach_every_parameter(cell: str) -> None:
    network = embedding_network(cell)
    inputs = torch.randn(6, 3, 16, 16), torch.randint(1, 20, (8, 5))
    images, texts = network(*inputs)
    assert (images.shape, texts.shape) == ((6, 10), (8, 10))
    assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(14), "reordered")
    found = gradients(network, inputs)
    assert [name for name, _ in network.named_parameters() if name not in found or not found[name].any()] == []


@pytest.mark.parametrize("cell", CELLS)
def test_an_embedding_network_compresses_and_materializes(cell: str) -> None:
    network = embedding_network(cell).eval()
    keys, count = set(network.state_dict()), shapeshift.count_parameters(network)
    inputs = torch.randn(2, 3, 16, 16), torch.randint(1, 20, (3, 5))
    shapeshift.compress(network, "50%")
    assert shapeshift.count_parameters(network) <= count // 2
    with torch.no_grad():
        expected = network(*inputs)
        shapeshift.materialize(network)
        assert_close(network(*inputs), expected, "reordered")  # of tiny recurrent weights that lie elsewhere in memory
    assert set(network.state_dict()) == keys


# Images 0 and 1 have text 2 in common, image 2 has a text of its own, image 3 has none.
MATCHES = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)


def loss_by_triplets(images: Tensor, texts: Tensor, weights: tuple[float, ...], margin: float) -> float:
    """Add up equation 5 one triplet after the other."""

    def violations(anchors: Tensor, points: Tensor, close: list[list[int]], far: list[list[int]]) -> float:
        terms = [
            max(0.0, (margin + (anchor - points[one]).norm() - (anchor - points[other]).norm()).item())
            for anchor, near_ones, far_ones in zip(anchors, close, far, strict=True)
            for one in near_ones
            for other in far_ones
        ]
        return sum(terms) / sum(map(len, close))

    def members(row: Tensor) -> list[int]:
        return row.nonzero().flatten().tolist()

    def cross(matches: Tensor, anchors: Tensor, points: Tensor) -> float:
        return violations(anchors, points, [members(row) for row in matches], [members(~row) for row in matches])

    def within(matches: Tensor, points: Tensor) -> float:
        close = [
            [j for j in range(len(points)) if j != i and (matches[i] & matches[j]).any()] for i in range(len(points))
        ]
        far = [[j for j in range(len(points)) if j != i and j not in near] for i, near in enumerate(close)]
        return violations(points, points, close, far)

    terms = (
        cross(MATCHES, images, texts),
        cross(MATCHES.T, texts, images),
        within(MATCHES, images),
        within(MATCHES.T, texts),
    )
    return sum(weight * term for weight, term in zip((1.0, *weights), terms, strict=True))


@pytest.mark.parametrize("weights", [(2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.5, 0.3, 0.7)])
def test_the_loss_is_the_sum_of_its_triplets(weights: tuple[float, float, float]) -> None:
    images, texts = (nn.functional.normalize(torch.randn(4, 6, dtype=torch.float64), dim=1) for _ in range(2))
    text_weight, image_structure, text_structure = weights
    expected = loss_by_triplets(images, texts, weights, margin=0.3)
    loss = embedding_loss(images, texts, MATCHES, 0.3, text_weight, image_structure, text_structure)
    assert loss.item() > 0
    assert_close(loss, torch.tensor(expected, dtype=torch.float64), "double")


def test_the_hardest_triplets_are_those_of_the_closest_points() -> None:
    images = torch.tensor([[0.0], [10.0]])
    texts = torch.tensor([[1.0], [2.0], [3.0], [9.0]])
    matches = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)

    def loss(hardest: int | None) -> float:
        return embedding_loss(images, texts, matches, 1.5, 0.0, 0.0, 0.0, hardest).item()

    # From image 0, text 0 lies at 1 and the others at 2, 3 and 9; from image 1, text 3 lies at 1, the others further.
    assert loss(1) == loss(None) == pytest.approx((1.5 + 1 - 2) / 2)
    images[0] = 0.5
    texts[2] = -1.0
    assert loss(None) == pytest.approx((0.5 + 0.5) / 2)
    assert loss(1) == pytest.approx(0.5 / 2)


def test_what_is_in_order_has_no_loss_and_what_coincides_has_finite_gradients() -> None:
    points = torch.eye(4, requires_grad=True)
    matches = torch.eye(4, dtype=torch.bool)
    assert embedding_loss(points, points, matches, text_structure=0.2).item() == 0
    same = torch.ones(4, 3, requires_grad=True)
    loss = embedding_loss(same, same * 1.0, MATCHES, image_structure=0.1)
    assert loss.item() > 0
    loss.backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_recall_counts_the_queries_that_find_a_match() -> None:
    matches = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    similarities = torch.tensor([[0.1, 0.9, 0.5, 0.4], [0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.6]])
    assert [recall(similarities, matches, rank) for rank in (1, 2, 3, 4)] == pytest.approx(
        [100 / 3, 100 / 3, 200 / 3, 100]
    )
    # A network that finds everything alike finds nothing.
    assert recall(torch.zeros(3, 4), matches, 2) == 0
    assert recall(torch.full((3, 4), torch.nan), matches, 2) == 0
    assert recall(torch.zeros(3, 4), matches, 3) == pytest.approx(100 / 3)


class Fixed(nn.Module):
    """A network that knows the embeddings."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.ParameterList([images, texts])

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.embeddings[0][images[:, 0, 0, 0].long()], self.embeddings[1][tokens[:, 0] - 2]


def test_recalls_are_measured_both_ways() -> None:
    count = 40
    data = CaptionedImages(
        torch.arange(count).float().view(-1, 1, 1, 1),
        Sentences(torch.arange(2, 2 + 2 * count)[:, None], torch.arange(count).repeat_interleave(2)),
        Phrases(torch.zeros(0, 1).long(), torch.zeros(0).long(), torch.zeros(0, 4)),
        Vocabulary(()),
    )
    eye = torch.eye(count)
    perfect = retrieval_recalls(Fixed(eye, eye.repeat_interleave(2, dim=0)), data)
    assert set(perfect) == {metric.name for metric in Retrieval.metrics}
    assert set(perfect.values()) == {100.0}
    # Every sentence but the first of image 0 says what is in the next image.
    moved = eye.roll(-1, 0).repeat_interleave(2, dim=0)
    moved[0] = eye[0]
    found = retrieval_recalls(Fixed(eye, moved), data)
    assert found["sentences_at_1"] == pytest.approx(0)  # image 0 is also what both sentences of the last image say
    assert found["images_at_1"] == pytest.approx(100 / (2 * count))
    assert found["mean_recall"] == pytest.approx(sum(value for key, value in found.items() if key != "mean_recall") / 6)


@pytest.mark.parametrize("budget", ["", "50%"])
def test_a_network_learns_what_belongs_together(budget: str) -> None:
    data = coloured()
    network = TINY.build(data)
    if budget:
        shapeshift.compress(network, budget)
    before = retrieval_recalls(network, data)["mean_recall"]
    train_retrieval(network, data, RECIPE, seed=0)
    found = retrieval_recalls(network, data)
    assert before < 40
    assert found["mean_recall"] > 80


def test_no_image_is_left_alone_in_a_batch() -> None:
    data = coloured(count=9)
    network = TINY.build(data)
    seen: list[int] = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    train_retrieval(network, data, replace(RECIPE, epochs=2, batch_size=8), seed=0)
    assert seen == [5, 4, 5, 4]


def test_training_is_the_same_for_the_same_seed() -> None:
    data = coloured(count=8)
    trained = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        network = TINY.build(data)
        train_retrieval(network, data, replace(RECIPE, epochs=1, batch_size=4), seed)
        trained.append(network.image_branch.fc2.weight.detach())
    assert_close(trained[0], trained[1], "identical")
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("row", [*retrieval_rows.ROWS, *grounding_rows.ROWS], ids=lambda row: row.key.replace(" ", ""))
def test_every_row_can_be_built(row: Row) -> None:
    data = coloured(count=4)
    training = Training(data, RECIPE, seed=0, device="cpu")
    json.dumps(row.settings)
    size = shapeshift.count_parameters(row.build(row.network, row.budget, training, **row.options))
    own = shapeshift.count_parameters(row.network.build(data))
    allowed = parse_budget(row.budget, own) if row.budget else own
    assert 0.95 * allowed < size <= allowed


@pytest.mark.parametrize("build", [thinner, compressed])
def test_the_benchmark_measures_recall(build: Callable[..., nn.Module], tmp_path: Path) -> None:
    experiment = Retrieval()
    task = replace(
        experiment.task("scenes", "cpu", tmp_path),
        recipe=replace(RECIPE, epochs=1),
        options={"train": 16, "test": 8},
    )
    sizes = json.loads(json.dumps(experiment.describe(task)))
    text = experiment.caption(sizes, asdict(task.recipe))
    assert text.startswith("16 training images of shape 3 x 48 x 48 with 80 sentences and 8 test images with 40")
    assert text.endswith("1 epochs in batches of 8 images")
    found = experiment.run(Row(TINY, "small", "60%", build), task, seed=0)
    assert set(found) == {"parameters", *(metric.name for metric in experiment.metrics)}
    own = shapeshift.count_parameters(TINY.build(experiment.load(task)[0]))
    assert 0.5 * own < found["parameters"] <= 0.6 * own
    assert 0 <= found["mean_recall"] <= 100
