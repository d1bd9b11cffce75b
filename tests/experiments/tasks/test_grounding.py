"""Phrase grounding: accuracy, and training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import DataError
from shapeshift.experiments.data.boxes import overlap
from shapeshift.experiments.data.captions import CaptionedImages
from shapeshift.experiments.tasks.grounding import grounding_accuracy, train_grounding
from shapeshift.experiments.training import Recipe
from tests.captioned import coloured, similarity_network, without_phrases

RECIPE = Recipe(epochs=40, batch_size=8, learning_rate=0.02, weight_decay=0.0, optimizer="adamw")


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
        train_grounding(similarity_network(data), data, RECIPE, seed=0)
    with pytest.raises(DataError, match="needs phrases with boxes"):
        grounding_accuracy(similarity_network(data), data)


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
    network = similarity_network(few)
    seen = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    train_grounding(network, few, replace(RECIPE, epochs=2, batch_size=4), seed=0)
    assert seen == [2, 2]
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert grounding_accuracy(Knowing(few, 1.0), few) == 100


@pytest.mark.parametrize("budget", ["", "50%"])
def test_a_network_learns_where_things_are(budget: str) -> None:
    data = coloured()
    network = similarity_network(data)
    if budget:
        shapeshift.compress(network, budget)
    before = grounding_accuracy(network, data)
    train_grounding(network, data, RECIPE, seed=0)
    assert before < 50
    assert grounding_accuracy(network, data) > 80
