"""The plain training loop of scripts and benchmarks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shapeshift.experiments.cutout import cut_out
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe, error, train


@pytest.mark.parametrize(("side", "most"), [(1, 1), (4, 16), (5, 25)])
def test_a_square_of_each_image_is_hidden(side: int, most: int) -> None:
    images = torch.rand(500, 3, 8, 10) + 1
    cut = cut_out(images, side, torch.Generator().manual_seed(0))
    hidden = cut == 0
    assert torch.equal(cut[~hidden], images[~hidden])
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden)), "all channels of a pixel are hidden together"
    sizes = hidden[:, 0].flatten(1).sum(1)
    assert sizes.max() == most
    assert sizes.min() >= 1
    rows, columns = hidden[:, 0].any(2).sum(1), hidden[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, sizes), "what is hidden is a rectangle"
    assert hidden[:, 0].any(0).all(), "every pixel has a chance"


def test_the_same_seed_hides_the_same_squares() -> None:
    images = torch.rand(8, 1, 8, 8) + 1
    first, second = (cut_out(images, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("recipe", [Recipe(20, 8), Recipe(20, 8, 0.02, optimizer="adamw"), Recipe(40, 8, cutout=1)])
def test_a_recipe_trains(recipe: Recipe) -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    images = torch.zeros(40, 1, 4, 4)
    images[torch.arange(40), 0, labels, :] = 1.0
    data = Images(images, labels, num_classes=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    assert error(model, data) > 25
    train(model, data, recipe, seed=0)
    assert error(model, data) == 0
