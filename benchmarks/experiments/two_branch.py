"""The networks that match images and texts, and the common part of their experiments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import nn

import shapeshift
from benchmarks.experiments.base import Experiment
from benchmarks.experiments.networks import Network, Training, compressed, dense
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.budget import parse_budget
from shapeshift.experiments.data import CAPTIONED, CaptionedImages
from shapeshift.experiments.training import Recipe
from shapeshift.networks.embedding_network import EmbeddingNetwork
from shapeshift.networks.reduced import reduce_width, scaled_width
from shapeshift.networks.similarity_network import SimilarityNetwork
from shapeshift.networks.text_encoder import TextEncoder
from shapeshift.networks.trunk import WideTrunk

CELLS = "gru", "lstm"
BUDGETS = "50%", "25%", "12.5%"


@dataclass(frozen=True)
class TwoBranchNetwork(Network):
    """A network of convolutions for images, a recurrent network for texts, and a branch after each.

    Attributes:
        cell: The cell of the recurrent network, "gru" or "lstm".
        depth: The depth of the wide residual network whose convolutions are used.
        width: The factor on its channels.
        words: The length of a word's embedding.
        state: The length of the recurrent network's state.
        hidden: The length of the branches' hidden layers.
        embedding: The length of the branches' outputs.
    """

    cell: str
    depth: int = 10
    width: float = 0.5
    words: int = 32
    state: int = 64
    hidden: int = 128
    embedding: int = 64

    def build(self, data: CaptionedImages, factor: float = 1.0) -> nn.Module:
        """Build the network, with a factor in (0, 1] on all of its widths."""
        stem = scaled_width(16, self.width * factor)
        trunk = WideTrunk(self.depth, self.width * factor, data.channels, stem, stride=2)
        state = scaled_width(self.state, factor)
        text = TextEncoder(len(data.vocabulary), scaled_width(self.words, factor), state, self.cell)
        return self.join(trunk, text, state, scaled_width(self.hidden, factor), scaled_width(self.embedding, factor))

    @abstractmethod
    def join(self, trunk: WideTrunk, text: TextEncoder, state: int, hidden: int, embedding: int) -> nn.Module:
        """Add the branches, and the layers that follow them."""


@dataclass(frozen=True)
class EmbNet(TwoBranchNetwork):
    """The network that embeds images and sentences."""

    def __str__(self) -> str:
        return f"EmbNet, {self.cell.upper()}"

    def join(self, trunk: WideTrunk, text: TextEncoder, state: int, hidden: int, embedding: int) -> EmbeddingNetwork:
        return EmbeddingNetwork(trunk, text, state, hidden, embedding)


@dataclass(frozen=True)
class SimNet(TwoBranchNetwork):
    """The network that scores regions and phrases."""

    def __str__(self) -> str:
        return f"SimNet, {self.cell.upper()}"

    def join(self, trunk: WideTrunk, text: TextEncoder, state: int, hidden: int, embedding: int) -> SimilarityNetwork:
        return SimilarityNetwork(trunk, text, state, hidden, embedding)


def thinner(network: TwoBranchNetwork, budget: str, training: Training) -> nn.Module:
    """Build the network with all of its widths scaled by one factor, the largest that a budget allows."""
    build = partial(network.build, training.data)
    return reduce_width(build, parse_budget(budget, shapeshift.count_parameters(build())))


def rows(network: TwoBranchNetwork) -> tuple[Row, ...]:
    """Return a network as it is, and both ways to make it smaller at each budget."""
    return (
        Row(network, "dense", "", dense),
        *(
            row
            for budget in BUDGETS
            for row in (Row(network, "reduced", budget, thinner), Row(network, "compressed", budget, compressed))
        ),
    )


class Matching(Experiment):
    """Train a network to match images and texts."""

    @abstractmethod
    def train(self, model: nn.Module, data: CaptionedImages, recipe: Recipe, seed: int) -> None:
        """Train a network in place."""

    @abstractmethod
    def measure(self, model: nn.Module, data: CaptionedImages) -> dict[str, float]:
        """Return every metric on a test set."""

    def load(self, task: Task) -> tuple[CaptionedImages, CaptionedImages]:
        """Load the training set and the test set of a task, on the CPU."""
        return _load(task.data, task.data_dir, tuple(task.options.items()))

    def describe(self, task: Task) -> dict[str, Any]:
        training, test = self.load(task)
        return {
            "train": len(training),
            "test": len(test),
            "sentences": [len(part.sentences.tokens) for part in (training, test)],
            "phrases": [len(part.phrases.tokens) for part in (training, test)],
            "vocabulary": len(training.vocabulary),
            "shape": list(training.images.shape[1:]),
        }

    def run(self, row: Row, task: Task, seed: int) -> dict[str, Any]:
        data, test = self.load(task)
        training = Training(data, task.recipe, seed, task.device)
        model = row.build(row.network, row.budget, training, **row.options).to(task.device)
        self.train(model, data, replace(task.recipe, **row.recipe), seed)
        return {"parameters": shapeshift.count_parameters(model), **self.measure(model, test)}


@lru_cache(maxsize=1)
def _load(
    data: str, data_dir: Path | None, options: tuple[tuple[str, int], ...]
) -> tuple[CaptionedImages, CaptionedImages]:
    return CAPTIONED[data](data_dir, **dict(options))


def texts_of(data: Mapping[str, Any], kind: str) -> str:
    """Tell in a clause how many images and texts of a kind there are."""
    training, test = data[kind]
    shape = " x ".join(map(str, data["shape"]))
    return (
        f"{data['train']:,} training images of shape {shape} with {training:,} {kind} and {data['test']:,} test images "
        f"with {test:,}"
    )
