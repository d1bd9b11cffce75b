"""A plain training loop, the same for all models that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shapeshift.checkpoint.replacing import replacing
from shapeshift.experiments.augmentation import crop, cut_out, flip
from shapeshift.experiments.data import Labelled
from shapeshift.optimizer import parameter_groups
from shapeshift.running.labels import cross_entropy


@dataclass(frozen=True)
class Recipe:
    """The settings of a training: an optimizer, and a learning rate that rises and falls once, or falls in steps.

    By default, the learning rate follows torch's ``OneCycleLR`` (Smith and Topin 2019, "Super-Convergence").

    Attributes:
        epochs: The number of passes over the training set.
        batch_size: The number of examples of a step.
        learning_rate: The largest learning rate.
        momentum: The momentum of SGD.
        weight_decay: The weight decay. Coefficients and one-dimensional parameters have none.
        optimizer: "sgd", with Nesterov momentum, or "adamw".
        cutout: The side in pixels of the square that is hidden in each training image (DeVries and Taylor 2017); 0
            hides none.
        flip: Whether each training image is mirrored from left to right with a probability of one half.
        crop: The largest distance in pixels by which each training image is moved, filled with its reflection, as in a
            crop of the padded image; 0 moves none.
        milestones: The numbers of epochs after which the learning rate is multiplied by ``factor``. Without any, it
            rises and falls once.
        factor: The factor at each milestone.
        bfloat16: Whether forward passes run under autocast in bfloat16.

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
    milestones: tuple[int, ...] = ()
    factor: float = 0.2
    bfloat16: bool = False

    def start(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the optimizer of some parameter groups."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, self.learning_rate)
        return torch.optim.SGD(groups, self.learning_rate, momentum=self.momentum, nesterov=True)

    def schedule(self, optimizer: torch.optim.Optimizer, batches: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule of an optimizer, to be advanced after each of the batches of an epoch."""
        if self.milestones:
            steps = [epoch * batches for epoch in self.milestones]
            return torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, self.factor)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.epochs * batches)


def train(
    model: nn.Module,
    data: Labelled,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
    distiller: nn.Module | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train a classifier in place, on its own device.

    In a process group of torch.distributed, DDP spreads each batch over the processes.

    Args:
        model: A network that maps inputs to logits, or a :class:`shapeshift.superweights.Family` of such networks,
            whose losses are added.
        data: The training set, on any device.
        recipe: The optimizer and its settings.
        seed: The seed of the order of the examples.
        on_epoch: A function that is called after each epoch.
        distiller: A distiller with this model as its student, or another module that returns a loss for inputs and
            labels. The loss is added, and the module's parameters are trained too.
        checkpoint: The file that the state of the training is written to after each epoch, and read from if it exists.
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
        value: Tensor = step(*(part.tensor_split(processes)[rank] for part in (x, y)))
        return value

    step: nn.Module = _Loss(model, distiller)
    rank, processes = 0, 1
    if dist.is_initialized():
        rank, processes = dist.get_rank(), dist.get_world_size()
        step = DistributedDataParallel(step)
    trained = nn.ModuleList([model] if distiller is None else [model, distiller])
    fit(trained, len(labels), loss, recipe, seed, on_epoch, False, checkpoint, [places])


class _Loss(nn.Module):
    """The loss of a step as a module, which DDP can wrap with all that is trained."""

    def __init__(self, model: nn.Module, distiller: nn.Module | None) -> None:
        super().__init__()
        self.model, self.distiller = model, distiller

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = cross_entropy(self.model, (inputs, labels))
        return loss if self.distiller is None else loss + self.distiller(inputs, labels)


def fit(
    model: nn.Module,
    examples: int,
    loss: Callable[[Tensor], Tensor],
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
    even: bool = True,
    checkpoint: Path | None = None,
    generators: Sequence[torch.Generator] = (),
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
        checkpoint: The file that the state of the training is written to after each epoch, and read from if it exists:
            a training that was killed goes on, and ends as it would have.
        generators: The random generators that the loss draws from, whose states are kept too.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = -(-examples // recipe.batch_size)
    optimizer = recipe.start(parameter_groups(model, recipe.weight_decay))
    schedule = recipe.schedule(optimizer, batches)
    device = next(model.parameters()).device.type
    state = _State((model, optimizer, schedule), (generator, *generators))
    model.train()
    for _ in range(state.restore(checkpoint), recipe.epochs):
        order = torch.randperm(examples, generator=generator)
        for batch in order.tensor_split(batches) if even else order.split(recipe.batch_size):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=recipe.bfloat16):
                value = loss(batch)
            value.backward()
            optimizer.step()
            schedule.step()
        on_epoch()
        state.keep(checkpoint)


class _State:
    """All that a training needs to go on.

    Args:
        parts: The model, the optimizer and the schedule.
        generators: The random generators. Torch's own are kept beside them.
    """

    def __init__(self, parts: Sequence[Any], generators: Sequence[torch.Generator]) -> None:
        gpu = [torch.cuda.default_generators[torch.cuda.current_device()]] if torch.cuda.is_available() else []
        self.parts, self.generators = parts, [*generators, torch.default_generator, *gpu]
        self.epochs = 0

    def keep(self, path: Path | None) -> None:
        """Write the state after an epoch, in the first process of a group."""
        self.epochs += 1
        if path is not None and not (dist.is_initialized() and dist.get_rank()):
            path.parent.mkdir(parents=True, exist_ok=True)
            states = [part.state_dict() for part in self.parts], [each.get_state() for each in self.generators]
            with replacing(path) as written:
                torch.save((self.epochs, *states), written)

    def restore(self, path: Path | None) -> int:
        """Read the state if there is one, and return the number of epochs that are done."""
        if path is not None and path.exists():
            self.epochs, parts, generators = torch.load(path, map_location="cpu", weights_only=True)
            for part, found in zip(self.parts, parts, strict=True):
                part.load_state_dict(found)
            for generator, found in zip(self.generators, generators, strict=True):
                generator.set_state(found)
        return self.epochs


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
