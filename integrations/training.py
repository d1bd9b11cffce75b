"""A plain training loop for image classifiers, the same for every kind of model that is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill import Distiller
from shapeshift.integrations.data import Images
from shapeshift.optimizer import parameter_groups


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: SGD with Nesterov momentum and a one-cycle learning rate.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: the peak of the cycle.
        momentum: of SGD.
        weight_decay: on all but coefficients and one-dimensional parameters.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4


def train(
    model: nn.Module,
    data: Images,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
    distiller: Distiller | None = None,
) -> None:
    """Train a classifier in place, on the device that its parameters are on.

    Args:
        model: maps images to logits.
        data: the training set, on any device.
        recipe: how.
        seed: of the order of the images.
        on_epoch: called after each epoch.
        distiller: built with this model as its student; its loss is added, and its connectors are trained along.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    images, labels = data.images.to(device), data.labels.to(device)
    steps = -(-len(labels) // recipe.batch_size)
    trained = nn.ModuleList([model] if distiller is None else [model, distiller])
    groups = parameter_groups(trained, recipe.weight_decay)
    optimizer = torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps)
    trained.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator).to(device)
        for batch in order.split(recipe.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            if distiller is not None:
                loss = loss + distiller(images[batch], labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
        on_epoch()


@torch.inference_mode()
def predict(model: nn.Module, data: Images, batch_size: int = 1024) -> Tensor:
    """Return a classifier's logits, of shape (N, classes), in evaluation mode, on the device that the images are on."""
    model.eval()
    device = next(model.parameters()).device
    logits = torch.cat([model(images.to(device)) for images in data.images.split(batch_size)])
    return logits.to(data.images.device)


def error(model: nn.Module, data: Images) -> float:
    """Return the share of images that a classifier gets wrong, in percent."""
    return (predict(model, data).argmax(1) != data.labels).float().mean().item() * 100
