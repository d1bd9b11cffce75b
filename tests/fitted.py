"""Models that tests fit, and the errors of their fits."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift.generators import GENERATORS
from shapeshift.surgery.roots import require_shared

FITTED = [name for name in GENERATORS if GENERATORS[name].fits]


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config).eval()


def shared_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return every generated weight of a compressed model by name."""
    return {
        weight.name: group.generate([index])[0].detach()
        for group in require_shared(model).generators()
        for index, weight in enumerate(group.weights)
    }


def errors_of(model: nn.Module) -> dict[str, float]:
    """Return the relative errors that the report of a fitted model names."""
    report = shapeshift.report(model)
    return {
        weight.name: weight.error for group in report.groups for weight in group.weights if weight.error is not None
    }


def similar_layers(count: int = 6, rank: int = 3, noise: float = 0.3) -> nn.Sequential:
    """Make layers of one shape that are mixtures of few matrices and noise, as layers that learned alike."""
    basis, layers = torch.randn(rank, 12, 10), [nn.Linear(10, 12, bias=False) for _ in range(count)]
    for layer in layers:
        mixture = torch.einsum("k,koi->oi", torch.randn(rank), basis)
        layer.weight.data = mixture + noise * torch.randn(12, 10)
    return nn.Sequential(*layers)


class Chained(nn.Module):
    """A classifier of correlated inputs, as data has them: few directions hold nearly all of the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def correlated(count: int, seed: int) -> Tensor:
    directions = torch.randn(24, 24, generator=torch.Generator().manual_seed(7)) * 0.7 ** torch.arange(24)
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed)) @ directions.T


def build_again() -> nn.Module:
    torch.manual_seed(5)
    return Chained()
