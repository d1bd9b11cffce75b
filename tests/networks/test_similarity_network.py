"""The network that scores phrases against regions, and its loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import shapeshift
from shapeshift.networks.similarity_network import SimilarityNetwork, pool_regions, similarity_loss
from shapeshift.networks.text_encoder import CELLS, TextEncoder
from shapeshift.networks.trunk import WideTrunk
from tests.models import gradients
from tests.tolerances import assert_close


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
