"""A plain training loop, the same for all models that are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.experiments.augmentation import crop, cut_out, flip
from shapeshift.experiments.data import Labelled
from shapeshift.optimizer import parameter_groups
from shapeshift.running.labels import cross_entropy


@dataclass(frozen=True)
class Recipe:
    """The settings of a training: an optimizer, and a learning rate that rises and falls once.

    The learning rate follows torch's ``OneCycleLR`` (Smith and Topin 2019, "Super-Convergence").

    Attributes:
        epochs: The number of passes over the training set.
        batch_size: The number of examples of a step.
        learning_rate: The largest learning rate of the cycle.
        momentum: The momentum of SGD.
        weight_decay: The weight decay. Coefficients and one-dimensional parameters have none.
        optimizer: "sgd", with Nesterov momentum, or "adamw".
        cutout: The side in pixels of the square that is hidden in each training image (DeVries and Taylor 2017); 0
            hides none.
        flip: Whether each training image is mirrored from left to right with a probability of one half.
        crop: The largest distance in pixels by which each training image is moved, filled with its reflection, as in a
            crop of the padded image; 0 moves none.

    Example:
        >>> import torch
        >>> from shapeshift.experiments.data.digits import digits
        >>> from shapeshift.experiments.training import Recipe, error, train
        >>> training, test = digits()
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> train(model, training, Recipe(epochs=3), seed=0)
        >>> error(model, test) < 20
        True
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    cutout: int = 0
    flip: bool = False
    crop: int = 0

    def start(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the optimizer of some parameter groups."""
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
    """Train a classifier in place, on its own device.

    Args:
        model: A network that maps inputs to logits, or a :class:`shapeshift.superweights.Family` of such networks,
            whose losses are added.
        data: The training set, on any device.
        recipe: The optimizer and its settings.
        seed: The seed of the order of the examples.
        on_epoch: A function that is called after each epoch.
        distiller: A distiller with this model as its student, or another module that returns a loss for inputs and
            labels. The loss is added, and the module's parameters are trained too.
    """
    device = next(model.parameters()).device
    inputs, labels = data.inputs.to(device), data.labels.to(device)
    places = torch.Generator().manual_seed(seed)

    def loss(batch: Tensor) -> Tensor:
        batch = batch.to(device)
        x, y = inputs[batch], labels[batch]
        if recipe.crop:
            x = crop(x, recipe.crop, places)
        if recipe.flip:
            x = flip(x, places)
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
    """Train any model in place by a loss.

    Args:
        model: The module with the parameters to train.
        examples: The number of training examples.
        loss: A function from the indices of a step's examples, on the CPU, to the loss of the step.
        recipe: The optimizer and its settings.
        seed: The seed of the order of the examples.
        on_epoch: A function that is called after each epoch.
        even: Whether all batches have nearly the same size. Otherwise the last batch has the remaining examples, which
            can be too few for a batch norm.
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
    """Return a classifier's logits in evaluation mode, of shape (N, classes) and on the data's device."""
    model.eval()
    device = next(model.parameters()).device
    logits = torch.cat([model(inputs.to(device)) for inputs in data.inputs.split(batch_size)])
    return logits.to(data.inputs.device)


def error(model: nn.Module, data: Labelled) -> float:
    """Return the share of examples that a classifier gets wrong, in percent."""
    return (predict(model, data).argmax(1) != data.labels).float().mean().item() * 100
