"""Networks that rows start from or learn from, trained once for all of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

import shapeshift
from benchmarks.experiments.networks import Network, Training
from benchmarks.experiments.resumable import train
from shapeshift.checkpoint.replacing import replacing

_folder: Path | None = None


def share_in(folder: Path | None) -> None:
    """Let this process and others that train for one task find each other's networks in a folder; None for nowhere."""
    global _folder
    _folder = folder
    _pretrained.cache_clear()


def pretrained(network: Network, budget: str, training: Training) -> nn.Module:
    """Train a network, or return one that is trained already. The result is not to be changed.

    Afterwards, torch is seeded with the training's seed, whether or not a network had to be trained.

    Args:
        network: The network that is built.
        budget: The budget of shared parameters in training, which are materialized afterwards. Empty trains plain
            parameters.
        training: The training that the network is built for.
    """
    model = _pretrained(network, budget, training)
    torch.manual_seed(training.seed)
    return model


@lru_cache(maxsize=2)
def _pretrained(network: Network, budget: str, training: Training) -> nn.Module:
    if _folder is None:
        return _train(network, budget, training)
    path = _folder / f"{network}_{budget or 'plain'}_{training.seed}.pt"
    if path.exists():
        model: nn.Module = torch.load(path, weights_only=False)
        return model
    model = _train(network, budget, training)
    with replacing(path) as written:
        torch.save(model, written)
    return model


def _train(network: Network, budget: str, training: Training) -> nn.Module:
    torch.manual_seed(training.seed)
    model = network.build(training.data)
    if budget:
        shapeshift.compress(model, budget)
    model.to(training.device)
    train(model, training.data, training.recipe, training.seed, f"{network}_{budget or 'plain'}")
    return shapeshift.materialize(model) if budget else model
