"""Small models and images for tests of pruning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift import prune
from shapeshift.networks.resnet import ResNet


def images(size: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size)


def small_resnet() -> ResNet:
    return ResNet(8, projection=True)


def livened(model: nn.Module) -> nn.Module:
    """Give norms statistics and scales that a trained model could have, so that no term of them drops out."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def taken(model: nn.Module, x: Tensor, layers: list[str] | None = None) -> dict[str, Tensor]:
    return prune.feature_ranks(model, [x], layers, progress=False)


def kept_channels(model: nn.Module) -> dict[str, list[int]]:
    return {layer.name: list(layer.kept) for layer in prune.report(model).layers}


class Block(nn.Module):
    """Something between two convolutions of 12 channels."""

    def __init__(self, middle: nn.Module | None = None, function: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 12, 3, padding=1)
        self.middle = middle or nn.Identity()
        self.function = function
        self.after = nn.LazyConv2d(6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.function(self.middle(self.before(x).relu()))).relu()
        return self.head(x.mean((2, 3)))


def block(*arguments: Any) -> nn.Module:
    model = Block(*arguments)
    with torch.no_grad():
        model(images(8))
    return livened(model)


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu()).relu()


class Padded(nn.Module):
    """Convolutions that are padded by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (1, 1, 1, 1))).relu()
        x = self.second(F.pad(x, (1, 1, 1, 1), mode="reflect")).relu()
        return self.head(F.pad(x, (0, 1)).mean((2, 3)))
