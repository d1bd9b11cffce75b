"""Networks that mark the shortest paths in a grid, while the points to connect move apart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

import shapeshift
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.networks import Network
from benchmarks.experiments.phase_curves import plot_phases
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.experiments.data.shortest_paths import Grids, Phase, curriculum
from shapeshift.networks.pixelwise import PixelwiseNetwork
from shapeshift.recurrence import regulariser, soft_share

WINDOWS = 5, 7, 9, 11, 13  # of the phases, in pixels


@dataclass(frozen=True)
class PathRecipe:
    """The sizes of the networks, and their training: Adam with a fixed learning rate, phase after phase.

    The values are those of Savarese and Maire 2019, section 4.3, who do not give the size of a batch.

    Attributes:
        depth: The number of 3x3 convolutions of a network.
        channels: The number of channels of each convolution.
        epochs: The number of passes over the training set of each phase.
        batch_size: The number of grids per step.
        learning_rate: The learning rate of all steps.
        regulariser: The factor on the similarity of the layers in the loss. 0 means no regulariser.
    """

    depth: int = 20
    channels: int = 32
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.01
    regulariser: float = 0.0


@dataclass(frozen=True)
class PixelwiseStack(Network):
    """A stack of equal convolutions, as deep and wide as the recipe says: smaller where there is no GPU."""

    def __str__(self) -> str:
        return "stack of convolutions"

    def build(self, data: PathRecipe) -> PixelwiseNetwork:
        return PixelwiseNetwork(data.depth, data.channels)


def plain(network: PixelwiseStack, budget: str, recipe: PathRecipe) -> nn.Module:
    """Build the network with its own parameters."""
    return network.build(recipe)


def soft_shared(network: PixelwiseStack, budget: str, recipe: PathRecipe, templates: int | None = None) -> nn.Module:
    """Build the network, and let its layers mix templates, one for each layer by default."""
    return soft_share(network.build(recipe), templates)


class ShortestPaths(Experiment):
    """Train a network through the phases of a curriculum, and measure after each epoch how well it marks the paths.

    Most pixels lie on no path, in the first phase 98 of 100 in a grid of 16 x 16 pixels: a network that marks none is
    right about those. So F1 is compared, which counts the marked pixels only: twice the rightly marked ones, as a share
    of all marked ones and all of the paths together. Its mean over a phase's epochs tells how fast a network
    adapts to the phase.
    """

    metrics = (
        Metric("f1", "F1, %", higher_is_better=True),
        *(Metric(f"f1_{window}", f"F1, window {window}, %", higher_is_better=True) for window in WINDOWS),
        Metric("last_f1", "F1 at the end, %", higher_is_better=True),
        Metric("last_error", "wrong pixels at the end, %"),
    )
    datasets = ("grids",)
    picture = "F1 and accuracy after each epoch"

    def task(self, data: str, device: str, data_dir: Path | None = None) -> Task:
        if device == "cpu":  # so few grids that it takes a network some epochs to adapt, and a training half a minute
            recipe = PathRecipe(channels=16, epochs=8, batch_size=32)
            return Task(data, recipe, {"train": 200, "test": 300, "side": 16}, device, data_dir)
        return Task(data, PathRecipe(), {"train": 5000, "test": 1000, "side": 32}, device, data_dir)

    def describe(self, task: Task) -> dict[str, Any]:
        return {**task.options, "windows": [phase.window for phase in load(task)]}

    def caption(self, data: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
        windows = data["windows"]
        return (
            f"{data['train']:,} training and {data['test']:,} test grids of {data['side']} x {data['side']} pixels in "
            f"each of {len(windows)} phases, with both points in a window of {', '.join(map(str, windows[:-1]))} and "
            f"{windows[-1]} pixels, {recipe['depth']} layers of {recipe['channels']} channels, {recipe['epochs']} "
            f"epochs per phase in batches of {recipe['batch_size']}, Adam at {recipe['learning_rate']}"
        )

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        recipe = replace(task.recipe, **row.recipe)
        model = row.build(row.network, row.budget, recipe, **row.options).to(task.device)
        curves = train_phases(model, load(task), recipe, seed)
        f1, accuracy = curves["f1_by_epoch"], curves["accuracy_by_epoch"]
        return {
            "parameters": shapeshift.count_parameters(model),
            "f1": statistics.mean(value for phase in f1 for value in phase),
            **{f"f1_{window}": statistics.mean(phase) for window, phase in zip(WINDOWS, f1, strict=True)},
            "last_f1": f1[-1][-1],
            "last_error": 100 - accuracy[-1][-1],
            **curves,
        }

    def draw(self, runs: Mapping[str, Sequence[Mapping[str, Any]]], data: Mapping[str, Any], path: Path) -> None:
        """Draw how well networks mark the paths, epoch by epoch.

        Args:
            runs: The values of each row's runs, by the row's method.
            data: The sizes that :meth:`describe` returned.
            path: The image to write.
        """
        panels = {
            title: {method: [run[name] for run in found] for method, found in runs.items()}
            for title, name in (("F1, %", "f1_by_epoch"), ("pixels that are right, %", "accuracy_by_epoch"))
        }
        plot_phases(panels, [f"window {window}" for window in data["windows"]], path)


def load(task: Task) -> list[Phase]:
    """Draw the phases of a task, on the CPU; they are the same ones in every run."""
    return _load(tuple(task.options.items()))


@lru_cache(maxsize=1)
def _load(options: tuple[tuple[str, int], ...]) -> list[Phase]:
    return curriculum(phases=len(WINDOWS), first_window=WINDOWS[0], **dict(options))


def train_phases(
    model: nn.Module, phases: Sequence[Phase], recipe: PathRecipe, seed: int
) -> dict[str, list[list[float]]]:
    """Train a network phase after phase, in place, on the device that its parameters are on.

    Args:
        model: A network that maps images to a logit for each pixel.
        phases: The phases, in order.
        recipe: The recipe.
        seed: The seed of the order of the grids.

    Returns:
        F1 and accuracy on a phase's test set after each epoch, in percent, phase by phase.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    curves: dict[str, list[list[float]]] = {"f1_by_epoch": [], "accuracy_by_epoch": []}
    for phase in phases:
        images, targets = phase.training.images.to(device), phase.training.targets.to(device)
        for curve in curves.values():
            curve.append([])
        for _ in range(recipe.epochs):
            model.train()
            order = torch.randperm(len(images), generator=generator).to(device)
            # Nearly equal batches: a small one at the end would move the statistics of batch norms before each test.
            for batch in order.tensor_split(-(-len(images) // recipe.batch_size)):
                optimizer.zero_grad()
                loss = F.binary_cross_entropy_with_logits(model(images[batch]).squeeze(1), targets[batch].float())
                if recipe.regulariser:
                    loss = loss + regulariser(model, recipe.regulariser)
                loss.backward()
                optimizer.step()
            # Few pixels lie on paths: the averages that batch norms keep of the last batches are too far off.
            update_bn(images.split(recipe.batch_size), model)
            f1, accuracy = score(model, phase.test)
            curves["f1_by_epoch"][-1].append(f1)
            curves["accuracy_by_epoch"][-1].append(accuracy)
    return curves


@torch.inference_mode()
def score(model: nn.Module, grids: Grids, batch_size: int = 500) -> tuple[float, float]:
    """Return the F1 of the pixels that a network marks, and the share of all pixels that it is right about, in percent.

    Args:
        model: A network that maps images to a logit for each pixel. It marks those whose logit is positive.
        grids: The grids that it is tested on.
        batch_size: The number of grids at once.
    """
    model.eval()
    device = next(model.parameters()).device
    batches = grids.images.split(batch_size)
    marked = torch.cat([model(images.to(device)).squeeze(1) > 0 for images in batches]).cpu()
    right = (marked & grids.targets).sum().item()
    f1 = 2 * right / (marked.sum().item() + grids.targets.sum().item())
    return 100 * f1, 100 * (marked == grids.targets).float().mean().item()
