"""The networks of the rows, and the ways to make one of them within a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import shapeshift
from benchmarks.baselines.reduced import FAMILIES
from benchmarks.baselines.reduced import reduced as reduce_family
from benchmarks.experiments.resumable import train
from shapeshift.budget import parse_budget
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import WideResNet


@dataclass(frozen=True)
class Network(ABC):
    """A network for any training set. Its text names it in tables."""

    @abstractmethod
    def build(self, data: Any) -> nn.Module:
        """Build the network with its own parameters, for a training set."""


@dataclass(frozen=True)
class WideNetwork(Network):
    """A wide residual network.

    Attributes:
        depth: The number of layers with weights.
        width: The factor on the stages' channels.
        stem: The number of channels of the first convolution.
    """

    depth: int
    width: float
    stem: int = 16

    def __str__(self) -> str:
        return f"WRN-{self.depth}-{self.width:g}"

    def build(self, data: Images, dropout: float = 0.0) -> WideResNet:
        return WideResNet(self.depth, self.width, data.num_classes, data.channels, self.stem, dropout)


@dataclass(frozen=True)
class OtherNetwork(Network):
    """A network of another architecture.

    Attributes:
        title: The name of the network in tables and patterns.
        family: A name in ``FAMILIES``.
        options: The options of the family, such as JSON can hold.
    """

    title: str
    family: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return self.title

    def __hash__(self) -> int:
        return hash(self.title)  # a dict has no hash of its own

    def build(self, data: Images) -> nn.Module:
        sizes = {"num_classes": data.num_classes, "in_channels": data.channels}
        return FAMILIES[self.family](1.0, **self.options, **sizes)


WRN_16_1 = WideNetwork(16, 1)
WRN_16_QUARTER = WideNetwork(16, 0.25, stem=8)


@dataclass(frozen=True)
class Training:
    """The training that a network is built for.

    Attributes:
        data: The training set, of the kind that the network is for.
        recipe: The recipe of the table, without the changes of a row.
        seed: The seed of the order of the examples.
        device: The device that the network is trained on.
    """

    data: Any
    recipe: Recipe
    seed: int
    device: str


def dense(network: Network, budget: str, training: Training, **options: Any) -> nn.Module:
    """Build a network as it is, with its own options; it has no budget."""
    return network.build(training.data, **options)


def soft_shared(
    network: Network, budget: str, training: Training, templates: int | None = None, **options: Any
) -> nn.Module:
    """Build a network, with its own options, whose layers share templates. Their number decides the size."""
    return shapeshift.recurrence.soft_share(network.build(training.data, **options), templates)


def reduced(network: WideNetwork | OtherNetwork, budget: str, training: Training, full_stem: bool = False) -> nn.Module:
    """Build the thinner network of a budget.

    Args:
        network: The network whose widths are scaled.
        budget: The budget of the thinner network.
        training: The training that it is built for.
        full_stem: Whether the first convolution of a wide residual network keeps its channels, and only the stages
            become thinner.
    """
    data = training.data
    size = parse_budget(budget, shapeshift.count_parameters(network.build(data)))
    sizes = {"num_classes": data.num_classes, "in_channels": data.channels}
    if isinstance(network, OtherNetwork):
        return reduce_family(network.family, size, **network.options, **sizes)
    if full_stem:
        return reduce_width(
            lambda factor: WideNetwork(network.depth, network.width * factor, network.stem).build(data), size
        )
    return reduce_family("wide_resnet", size, depth=network.depth, width=network.width, **sizes)


def compressed(network: Network, budget: str, training: Training, **options: Any) -> nn.Module:
    """Build a network and compress it, with fields of :class:`shapeshift.Config`."""
    return shapeshift.compress(network.build(training.data), budget, **options)


def generating(generator: str, budget: str) -> dict[str, Any]:
    """Return the options of :func:`compressed` for a generator, such that it has templates to choose from.

    By default there is one template for each weight up to the network's own size. An embedding then has no choice, and
    at that size nothing is shared.
    """
    several = generator == "emb" or (generator == "wavg" and budget == "100%")
    return {"combine": generator, **({"max_templates": 2} if several else {})}


def learned(
    network: Network,
    budget: str,
    training: Training,
    num_groups: int,
    method: str = "kmeans",
    search: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network, learn in a short training which layers share parameters, and compress it with that mapping.

    Args:
        network: The network that is built.
        budget: The budget, for learning and for training.
        training: The training that it is built for.
        num_groups: The number of parameter groups of the mapping.
        method: "kmeans" for :func:`shapeshift.learn_mapping`, "gradient" for
            :func:`shapeshift.learn_mapping_by_gradients`.
        search: The fields of the recipe in which the short training differs. By default, it has a fifth of the epochs.
        **options: Fields of :class:`shapeshift.Config`.
    """
    short = replace(training.recipe, **(search or {"epochs": max(1, training.recipe.epochs // 5)}))

    def pretrain(model: nn.Module) -> None:
        train(model, training.data, short, training.seed, "search")

    data = training.data
    model = network.build(data).to(training.device)
    mapping: shapeshift.Assignment
    if method == "gradient":
        batches = list(zip(data.inputs.split(128), data.labels.split(128), strict=True))
        mapping = shapeshift.learn_mapping_by_gradients(
            model, budget, pretrain, batches, num_groups, seed=training.seed, samples=min(1000, len(data.labels))
        )
    else:
        mapping = shapeshift.learn_mapping(model, budget, pretrain, num_groups, seed=training.seed)
    return shapeshift.compress(model, budget, mapping=mapping, **options)
