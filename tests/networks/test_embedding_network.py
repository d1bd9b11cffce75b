"""The network that embeds images and texts, and its loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.networks.embedding_network import EmbeddingNetwork, embedding_loss
from shapeshift.networks.text_encoder import CELLS, TextEncoder
from shapeshift.networks.trunk import WideTrunk
from tests.models import gradients
from tests.tolerances import assert_close


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
