"""Networks that rows start from or learn from, trained once for all of them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

import shapeshift
from benchmarks.experiments.networks import Network, Training
from shapeshift.integrations.training import train


@lru_cache(maxsize=2)
def pretrained(network: Network, budget: str, training: Training) -> nn.Module:
    """Train a network, or return the one that was just trained; what it returns is not to be changed.

    Args:
        network: what is built.
        budget: of shared parameters while it is trained, which are materialized; empty to train plain ones.
        training: what it is built for, and how it is trained.
    """
    torch.manual_seed(training.seed)
    model = network.build(training.data)
    if budget:
        shapeshift.compress(model, budget)
    model.to(training.device)
    train(model, training.data, training.recipe, training.seed)
    return shapeshift.materialize(model) if budget else model
