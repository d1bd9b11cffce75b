"""Image and sentence retrieval: recalls, and training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.retrieval import retrieval_hit_rate

import shapeshift
from shapeshift.experiments.data.captions import CaptionedImages, Phrases, Sentences
from shapeshift.experiments.data.vocabulary import Vocabulary
from shapeshift.experiments.tasks.retrieval import recall, retrieval_recalls, train_retrieval
from shapeshift.experiments.training import Recipe
from tests.captioned import coloured, embedding_network
from tests.tolerances import assert_close

RECIPE = Recipe(epochs=15, batch_size=8, learning_rate=0.01, weight_decay=0.0, optimizer="adamw")


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
    ways = [f"{found}_at_{rank}" for found in ("images", "sentences") for rank in (1, 5, 10)]
    assert set(perfect) == {*ways, "mean_recall"}
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
    network = embedding_network(data)
    if budget:
        shapeshift.compress(network, budget)
    before = retrieval_recalls(network, data)["mean_recall"]
    train_retrieval(network, data, RECIPE, seed=0)
    found = retrieval_recalls(network, data)
    assert before < 40
    assert found["mean_recall"] > 80


def test_no_image_is_left_alone_in_a_batch() -> None:
    data = coloured(count=9)
    network = embedding_network(data)
    seen: list[int] = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    train_retrieval(network, data, replace(RECIPE, epochs=2, batch_size=8), seed=0)
    assert seen == [5, 4, 5, 4]


def test_training_is_the_same_for_the_same_seed() -> None:
    data = coloured(count=8)
    trained = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        network = embedding_network(data)
        train_retrieval(network, data, replace(RECIPE, epochs=1, batch_size=4), seed)
        trained.append(network.image_branch.fc2.weight.detach())
    assert_close(trained[0], trained[1], "identical")
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize(("queries", "documents"), [(1, 3), (20, 7), (7, 60)])
def test_recall_is_the_mean_hit_rate_of_torchmetrics(queries: int, documents: int) -> None:
    generator = torch.Generator().manual_seed(documents)
    similarities = torch.randn(queries, documents, generator=generator)
    matches = torch.rand(queries, documents, generator=generator) < 0.1  # some queries have no match
    for rank in (1, 2, documents):
        hits = [retrieval_hit_rate(row, wanted, rank) for row, wanted in zip(similarities, matches, strict=True)]
        expected = 100 * torch.stack(hits).mean().item()
        assert recall(similarities, matches, rank) == pytest.approx(expected, rel=1e-6)
