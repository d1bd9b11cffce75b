"""Phrases about parts of images: boxes, candidates, scores, and what is found."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shapeshift
from benchmarks.experiments.grounding import Grounding
from benchmarks.experiments.networks import compressed
from benchmarks.experiments.two_branch import SimNet
from benchmarks.row import Row
from shapeshift.errors import DataError
from shapeshift.experiments.data.boxes import overlap, propose
from shapeshift.experiments.data.captions import CaptionedImages
from shapeshift.experiments.tasks.grounding import grounding_accuracy, train_grounding
from shapeshift.experiments.training import Recipe
from shapeshift.networks.similarity_network import SimilarityNetwork, pool_regions, similarity_loss
from shapeshift.networks.text_encoder import CELLS, TextEncoder
from shapeshift.networks.trunk import WideTrunk
from tests.captioned import coloured
from tests.models import gradients
from tests.tolerances import assert_close

TINY = SimNet("gru", width=0.25, words=8, state=16, hidden=24, embedding=16)
RECIPE = Recipe(epochs=40, batch_size=8, learning_rate=0.02, weight_decay=0.0, optimizer="adamw")


def without_phrases(data: CaptionedImages) -> CaptionedImages:
    phrases = data.phrases
    return replace(
        data, phrases=replace(phrases, tokens=phrases.tokens[:0], images=phrases.images[:0], boxes=phrases.boxes[:0])
    )


def test_overlap_is_what_counting_pixels_gives() -> None:
    rng = np.random.default_rng(0)
    edges = np.sort(rng.integers(0, 9, (2, 40, 2, 2)), axis=3)
    edges[..., 1] += edges[..., 0] == edges[..., 1]
    boxes, others = (torch.tensor(part.transpose(0, 2, 1).reshape(40, 4)).float() for part in edges)
    found = overlap(boxes, others)
    pixels = []
    for left, top, right, bottom in torch.cat([boxes, others]).long().tolist():
        mask = np.zeros((12, 12), bool)
        mask[top:bottom, left:right] = True
        pixels.append(mask)
    expected = [(one & other).sum() / (one | other).sum() for one, other in zip(pixels[:40], pixels[40:], strict=True)]
    assert 0 < sum(expected) < 40
    assert_close(found, torch.tensor(expected, dtype=torch.float32), "reordered")
    assert overlap(boxes[:, None], others).shape == (40, 40)


def test_candidates_are_the_boxes_of_the_phrases_others_near_them_and_random_ones() -> None:
    data = coloured(count=12)
    proposed = propose(data, candidates=14, seed=0)
    assert proposed.shape == (12, 14, 4)
    assert (proposed >= -1e-5).all()
    assert (proposed <= 16 + 1e-5).all()
    assert (proposed[..., :2] < proposed[..., 2:]).all()
    places = set()
    close = 0
    for image in range(12):
        true = data.phrases.boxes[data.phrases.images == image]
        shares = overlap(true[:, None], proposed[image])
        assert shares.max(dim=1).values.tolist() == [1.0, 1.0]
        places.add(int(shares[0].argmax()))
        best = shares.max(dim=0).values
        close += int(((best > 0.3) & (best < 1)).sum())
    assert len(places) > 4  # not always the same one
    assert 12 < close < 12 * 12
    assert torch.equal(proposed, propose(data, candidates=14, seed=0))
    assert not torch.equal(proposed, propose(data, candidates=14, seed=1))


def test_there_are_as_many_candidates_as_boxes_and_random_ones_where_there_are_none() -> None:
    data = coloured(count=3)
    assert_close(propose(data, 1, seed=0).sort(dim=1).values, data.phrases.boxes[::3].expand(3, 2, 4), "identical")
    proposed = propose(without_phrases(data), 5, seed=0)
    assert proposed.shape == (3, 5, 4)
    assert (proposed[..., :2] < proposed[..., 2:]).all()


def test_regions_are_sampled_in_the_middles_of_their_cells() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
    # Pixel i covers i to i + 1 of the map, so that a ramp has its own coordinate there.
    maps = torch.stack([columns + 0.5, rows + 0.5, torch.full((8, 10), 7.0)])[None]
    boxes = torch.tensor([[[0.2, 0.25, 0.8, 0.75], [0.5, 0.5, 0.9, 0.625]]])
    pooled = pool_regions(maps, boxes, grid=2)
    assert pooled.shape == (1, 2, 12)
    x, y, constant = pooled.view(2, 3, 2, 2).unbind(1)
    assert_close(x[0], torch.tensor([[3.5, 6.5], [3.5, 6.5]]), "reordered")
    assert_close(y[0], torch.tensor([[3.0, 3.0], [5.0, 5.0]]), "reordered")
    assert_close(x[1], torch.tensor([[6.0, 8.0], [6.0, 8.0]]), "reordered")
    assert_close(y[1], torch.tensor([[4.25, 4.25], [4.75, 4.75]]), "reordered")
    assert_close(constant, torch.full((2, 2, 2), 7.0), "reordered")


def similarity_network(cell: str = "gru") -> SimilarityNetwork:
    return SimilarityNetwork(WideTrunk(10, 0.25, stem=4), TextEncoder(20, 8, 12, cell), 12, hidden=16, embedding=10)


def inputs() -> tuple[Tensor, ...]:
    corners = torch.rand(3, 5, 2) * 8
    boxes = torch.cat([corners, corners + 1 + torch.rand(3, 5, 2) * 6], dim=2)
    return torch.randn(3, 3, 16, 16), boxes, torch.randint(1, 20, (4, 6)), torch.tensor([2, 0, 0, 1])


def test_each_phrase_is_scored_against_the_regions_of_its_image() -> None:
    network = similarity_network()
    images, boxes, tokens, phrase_images = inputs()
    network(images, boxes, tokens, phrase_images)  # so that the batch norms have seen something
    network.eval()
    scores = network(images, boxes, tokens, phrase_images)
    assert scores.shape == (4, 5)
    for phrase, image in enumerate(phrase_images.tolist()):
        for region in range(5):
            alone = network(
                images[image, None], boxes[image, None, region, None], tokens[phrase, None], torch.tensor([0])
            )
            assert_close(alone[0, 0], scores[phrase, region], "reordered")
    assert not torch.equal(scores[1], scores[2])  # two phrases of one image


@pytest.mark.parametrize("cell", CELLS)
def test_scores_reach_every_parameter_and_networks_compress_and_materialize(cell: str) -> None:
    network = similarity_network(cell)
    given = inputs()
    found = gradients(network, given)
    assert [name for name, _ in network.named_parameters() if name not in found or not found[name].any()] == []
    keys, count = set(network.state_dict()), shapeshift.count_parameters(network)
    shapeshift.compress(network.eval(), "50%")
    assert shapeshift.count_parameters(network) <= count // 2
    with torch.no_grad():
        expected = network(*given)
        shapeshift.materialize(network)
        assert_close(network(*given), expected, "reordered")  # of tiny recurrent weights that lie elsewhere in memory
    assert set(network.state_dict()) == keys


def test_the_loss_is_logistic_and_leaves_out_what_is_neither() -> None:
    scores = torch.tensor([[2.0, -1.0, 5.0], [0.5, 3.0, -4.0]], requires_grad=True)
    belong = torch.tensor([[1.0, 0.0, torch.nan], [0.0, 1.0, torch.nan]])
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    expected = torch.log1p(torch.exp(-signs * scores[:, :2])).mean()
    loss = similarity_loss(scores, belong)
    assert_close(loss, expected, "reordered")
    loss.backward()
    assert scores.grad is not None
    assert_close(scores.grad[:, 2], torch.zeros(2), "identical")
    assert scores.grad[:, :2].all()


class Knowing(nn.Module):
    """Scores regions by their overlap with the box that it knows of each word."""

    def __init__(self, data: CaptionedImages, sign: float) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(sign))
        self.words, self.boxes = data.phrases.tokens[:, 0], data.phrases.boxes

    def forward(self, images: Tensor, boxes: Tensor, tokens: Tensor, phrase_images: Tensor) -> Tensor:
        known = torch.stack([self.boxes[self.words == word][0] for word in tokens[:, 0]])
        return self.sign * overlap(boxes[phrase_images], known[:, None])


def test_accuracy_counts_the_phrases_whose_box_is_hit() -> None:
    data = coloured(count=70)  # more than a batch
    assert grounding_accuracy(Knowing(data, 1.0), data) == 100
    assert grounding_accuracy(Knowing(data, -1.0), data) == 0
    # The box of one phrase in four is not the one that the network knows.
    moved = data.phrases.boxes.clone()
    moved[::4] = torch.tensor([0.0, 14.0, 2.0, 16.0])
    other = replace(data, phrases=replace(data.phrases, boxes=moved))
    assert grounding_accuracy(Knowing(data, 1.0), other) == 75


def test_grounding_needs_phrases() -> None:
    data = without_phrases(coloured(count=2))
    with pytest.raises(DataError, match="2 images without phrases"):
        train_grounding(TINY.build(data), data, RECIPE, seed=0)
    with pytest.raises(DataError, match="needs phrases with boxes"):
        grounding_accuracy(TINY.build(data), data)


def test_images_without_phrases_are_left_out() -> None:
    data = coloured(count=9)
    kept = data.phrases.images >= 7
    phrases = replace(
        data.phrases,
        tokens=data.phrases.tokens[kept],
        images=data.phrases.images[kept],
        boxes=data.phrases.boxes[kept],
    )
    few = replace(data, phrases=phrases)
    network = TINY.build(few)
    seen = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    train_grounding(network, few, replace(RECIPE, epochs=2, batch_size=4), seed=0)
    assert seen == [2, 2]
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert grounding_accuracy(Knowing(few, 1.0), few) == 100


@pytest.mark.parametrize("budget", ["", "50%"])
def test_a_network_learns_where_things_are(budget: str) -> None:
    data = coloured()
    network = TINY.build(data)
    if budget:
        shapeshift.compress(network, budget)
    before = grounding_accuracy(network, data)
    train_grounding(network, data, RECIPE, seed=0)
    assert before < 50
    assert grounding_accuracy(network, data) > 80


def test_the_benchmark_measures_accuracy(tmp_path: Path) -> None:
    experiment = Grounding()
    recipe, options = replace(RECIPE, epochs=1), {"train": 16, "test": 8}
    task = replace(experiment.task("scenes", "cpu", tmp_path), recipe=recipe, options=options)
    sizes = json.loads(json.dumps(experiment.describe(task)))
    training, test = experiment.load(task)
    text = experiment.caption(sizes, asdict(task.recipe))
    assert f"with {len(training.phrases.tokens)} phrases and 8 test images with {len(test.phrases.tokens)}, 16 " in text
    found = experiment.run(Row(TINY, "compressed", "60%", compressed), task, seed=0)
    assert set(found) == {"parameters", "accuracy"}
    assert 0 <= found["accuracy"] <= 100
