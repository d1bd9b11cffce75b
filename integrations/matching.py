"""How networks that match images and texts are trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from shapeshift.integrations.training import Recipe
from shapeshift.optimizer import parameter_groups


def fit(model: nn.Module, images: int, loss: Callable[[Tensor], Tensor], recipe: Recipe, seed: int) -> None:
    """Train a network in place.

    Args:
        model: the network.
        images: how many there are to train on.
        loss: of a step, given the indices of its images, on the CPU.
        recipe: how; its batches are of images, at most.
        seed: of the order of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = -(-images // recipe.batch_size)
    optimizer = recipe.start(parameter_groups(model, recipe.weight_decay))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * batches)
    model.train()
    for _ in range(recipe.epochs):
        # Of nearly equal size: a rest of a single image would be too small for a batch norm.
        for batch in torch.randperm(images, generator=generator).tensor_split(batches):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
            schedule.step()
