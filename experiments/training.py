"""A plain training loop, the same for every kind of model that is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.experiments.cutout import cut_out
from shapeshift.experiments.data import Labelled
from shapeshift.optimizer import parameter_groups
from shapeshift.running.labels import cross_entropy


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: an optimizer, and a learning rate that rises and falls once.

    Attributes:
        epochs: passes over the training set.
        batch_size: examples per step.
        learning_rate: the peak of the cycle.
        momentum: of SGD.
        weight_decay: on all but coefficients and one-dimensional parameters.
        optimizer: "sgd", with Nesterov momentum, or "adamw".
        cutout: the side, in pixels, of the square that is hidden in each training image; 0 hides none.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    cutout: int = 0

    def start(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer for some parameter groups."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, self.learning_rate)
        return torch.optim.SGD(groups, self.learning_rate, momentum=self.momentum, nesterov=True)


def train(
    model: nn.Module,
    data: Labelled,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
    distiller: nn.Module | None = None,
) -> None:
    """Train a classifier in place, on the device that its parameters are on.

    Args:
        model: maps inputs to logits, or is a :class:`shapeshift.superweights.Family` of such, whose losses are added.
        data: the training set, on any device.
        recipe: how.
        seed: of the order of the examples.
        on_epoch: called after each epoch.
        distiller: built with this model as its student, or another module that returns a loss of the inputs and labels;
            the loss is added, and the module's parameters are trained along.
    """
    device = next(model.parameters()).device
    inputs, labels = data.inputs.to(device), data.labels.to(device)
    places = torch.Generator().manual_seed(seed)

    def loss(batch: Tensor) -> Tensor:
        batch = batch.to(device)
        x, y = inputs[batch], labels[batch]
        if recipe.cutout:
            x = cut_out(x, recipe.cutout, places)
        value = cross_entropy(model, (x, y))
        return value if distiller is None else value + distiller(x, y)

    trained = nn.ModuleList([model] if distiller is None else [model, distiller])
    fit(trained, len(labels), loss, recipe, seed, on_epoch, even=False)


def fit(
    model: nn.Module,
    examples: int,
    loss: Callable[[Tensor], Tensor],
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
    even: bool = True,
) -> None:
    """Train a network of any kind in place.

    Args:
        model: what has the parameters.
        examples: how many there are to train on.
        loss: of a step, given the indices of its examples, on the CPU.
        recipe: how.
        seed: of the order of the examples.
        on_epoch: called after each epoch.
        even: whether batches are of nearly equal size; otherwise the last one is what is left, which may be too little
            for a batch norm.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = -(-examples // recipe.batch_size)
    optimizer = recipe.start(parameter_groups(model, recipe.weight_decay))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * batches)
    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(examples, generator=generator)
        for batch in order.tensor_split(batches) if even else order.split(recipe.batch_size):
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
            schedule.step()
        on_epoch()


@torch.inference_mode()
def predict(model: nn.Module, data: Labelled, batch_size: int = 1024) -> Tensor:
    """Return a classifier's logits, of shape (N, classes), in evaluation mode, on the device that the data is on."""
    model.eval()
    device = next(model.parameters()).device
    logits = torch.cat([model(inputs.to(device)) for inputs in data.inputs.split(batch_size)])
    return logits.to(data.inputs.device)


def error(model: nn.Module, data: Labelled) -> float:
    """Return the share of examples that a classifier gets wrong, in percent."""
    return (predict(model, data).argmax(1) != data.labels).float().mean().item() * 100
