"""Ranks that do not distinguish filters: pruning by them warns."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift import prune
from tests.prunable import images

FULL = {"first": torch.full((8,), 6.0), "second": torch.full((8,), 6.0)}
ORDERED = {"first": torch.arange(8.0), "second": torch.arange(8.0)}


class Activated(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.activation, self.head = activation, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.activation(self.second(self.activation(self.first(x))))
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize(
    "activation", [nn.LeakyReLU(0.1), nn.SiLU(), nn.Tanh()], ids=lambda layer: type(layer).__name__
)
@pytest.mark.parametrize("mask", [False, True])
def test_full_ranks_warn_once(activation: nn.Module, mask: bool) -> None:
    with pytest.warns(shapeshift.ShapeshiftWarning, match="all filters of first; second have the same rank") as caught:
        prune.hrank(Activated(activation), [images()], 0.5, mask=mask, progress=False)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("ranks", "rate"),
    [(ORDERED, 0.5), ({**FULL, "first": ORDERED["first"]}, {"first": 0.5}), (FULL, 0.0), (FULL, 0.1)],
    ids=["ordered", "of a layer that stays whole", "no rate", "no filter"],
)
def test_ranks_that_choose_do_not_warn(ranks: dict[str, Tensor], rate: float | dict[str, float]) -> None:
    with warnings.catch_warnings(action="error"):
        prune.hrank(Activated(nn.ReLU()), [images()], rate, ranks=ranks)


def test_only_the_layers_of_equal_ranks_are_named() -> None:
    ranks = {"first": ORDERED["first"], "second": FULL["second"]}
    with pytest.warns(shapeshift.ShapeshiftWarning, match="all filters of second have the same rank"):
        prune.hrank(Activated(nn.ReLU()), [images()], 0.5, ranks=ranks)


def test_the_size_of_a_rate_is_found_without_a_warning() -> None:
    with warnings.catch_warnings(action="error"):
        prune.rate_for(Activated(nn.SiLU()), [images()], params=0.6)
