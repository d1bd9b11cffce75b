"""Models of two layers, one of which trains itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Two(nn.Module):
    """Two layers, which subclasses run in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)


class Stepping(Two):
    """Trains itself when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        for _ in range(3):
            loss = self.second(torch.tanh(self.first(x))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()


class Once(Stepping):
    """Its twin, which is trained from outside."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))).square().mean()
