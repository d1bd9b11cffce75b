"""Channel sets: channels of a model that have to be removed together, by the dependency graph of Torch-Pruning."""

from __future__ import annotations

import copy
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from shapeshift.disjoint_sets import DisjointSets
from shapeshift.errors import MissingExtraError, ModelError
from shapeshift.prune.layers import IN, OUT, count_groups, drops_groups, kind_of, num_channels
from shapeshift.prune.operations import Shapes, keeps_channels, operation_name
from shapeshift.running.batches import Inputs

# A layer's dotted path with "out" or "in", or the path of a parameter outside of known layers with a dimension.
Place = tuple[str, str]


@dataclass(frozen=True)
class ChannelSet:
    """Channels of several layers that only make sense together, such as those that a residual sum adds up.

    Attributes:
        members: The channels at each place.
        obstacle: The reason why they cannot be removed; None if they can.
    """

    members: dict[Place, list[int]]
    obstacle: str | None


# More channels than any tensor has, even a flattened one.
_MOST_CHANNELS = 2**40


def channel_sets(model: nn.Module, example: Inputs) -> list[ChannelSet]:
    """Find the sets of channels that have to be removed together.

    The graph is Torch-Pruning's, which treats unknown operations as elementwise. Here a set has an obstacle, and stays,
    if it reaches an operation, a layer or a layout that is not known to keep channels apart.

    Args:
        model: The model; it is not changed.
        example: The arguments of the model for one sample.

    Raises:
        MissingExtraError: If torch-pruning is not installed.
        ModelError: If the graph cannot be built.
    """
    try:
        import torch_pruning
    except ImportError:
        raise MissingExtraError("pruning filters", "prune") from None
    model = copy.deepcopy(model)
    # A frozen parameter would be missing from the graph.
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    shapes = Shapes()
    outputs: list[Any] = []

    def forward(model: nn.Module, inputs: Inputs) -> list[Tensor]:
        found = [leaf for leaf in tree_leaves(inputs.run(model)) if isinstance(leaf, Tensor) and leaf.grad_fn]
        outputs.extend(leaf.grad_fn for leaf in found)
        return found

    graph = torch_pruning.DependencyGraph()
    try:
        # It warns where it treats an operation as elementwise, or gives up at some depth: both are obstacles here.
        inputs = Inputs(*tree_map_only(Tensor, torch.clone, (example.args, example.kwargs)))
        with torch.enable_grad(), shapes, warnings.catch_warnings(action="ignore"):
            graph.build_dependency(model, inputs, forward_fn=forward, verbose=False)
    except Exception as error:
        raise ModelError(
            f"the graph of the layers of {type(model).__name__} cannot be built: {type(error).__name__}: {error}"
        ) from error
    return _Sets(graph, shapes, set(outputs)).find()


class _Index(NamedTuple):
    """A channel and its origin: the form in which the graph maps channels along a dependency."""

    idx: int
    root_idx: int


class _Sets:
    """Joins channels that depend on each other, over the whole graph at once.

    A site is a node of the graph together with the function that prunes its output, or the one that prunes its input.
    The channels of all sites have numbers of their own, so that sets of them can be joined.
    """

    def __init__(self, graph: Any, shapes: Shapes, outputs: set[Any]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.outputs = outputs
        self.reached: dict[Any, set[int]] = defaultdict(set)
        self.paths = {module: path for path, module in graph.model.named_modules()}
        self.names = {parameter: name for name, parameter in graph.model.named_parameters()}
        self.places = {*self.paths, *self.names}
        self.numbers: dict[Any, int] = {}
        self.disjoint = DisjointSets()
        owners = Counter(
            parameter
            for module in graph.model.modules()
            for parameter in module._parameters.values()
            if parameter is not None
        )
        self.tied = {parameter for parameter, count in owners.items() if count > 1}

    def find(self) -> list[ChannelSet]:
        """Return all sets, in the order of the layers and their channels."""
        for node in list(self.graph.module2node.values()):
            size = num_channels(node.module, OUT) if isinstance(node.module, nn.Module) else 0
            if size and not isinstance(node.module, nn.Embedding):
                self._spread((node, self._pruner(node).prune_out_channels), range(size))
                if drops_groups(node.module):
                    self._spread((node, self._pruner(node).prune_in_channels), range(num_channels(node.module, IN)))
        for site in list(self.reached):
            self._join_groups(site)
        obstacles: dict[int, str] = {}
        members: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
        for site, indices in self.reached.items():
            obstacle, places, number = self._obstacle(site), self._places(site), self._number(site)
            for index in sorted(indices):
                root = self.disjoint.find(number + index)
                for place, size in places:
                    members[root][place].append(index)
                    if index >= size:
                        obstacles.setdefault(root, f"reach {place[0]}, which has only {size}")
                if obstacle is not None:
                    obstacles[root] = obstacle
        return [ChannelSet(dict(found), obstacles.get(root)) for root, found in members.items()]

    def _pruner(self, node: Any) -> Any:
        return self.graph.get_pruner_of_module(node.module)

    def _spread(self, site: Any, indices: Iterable[int]) -> None:
        """Follow channels along all dependencies, and join those that depend on each other."""
        stack = [(site, set(indices) - self.reached[site])]
        self.reached[site] |= set(indices)
        while stack:
            (node, function), sources = stack.pop()
            for dependency in node.dependencies:
                if dependency.trigger != function:
                    continue
                target = dependency.target, dependency.handler
                before, after = list(sources), list(sources)
                if any(mapping is not None for mapping in dependency.index_mapping):
                    mapped = [_Index(index, index) for index in sources]
                    for mapping in dependency.index_mapping:
                        mapped = mapped if mapping is None else mapping(mapped)
                    before, after = [found.root_idx for found in mapped], [found.idx for found in mapped]
                source_number, target_number = self._number((node, function)), self._number(target)
                for source, found in zip(before, after, strict=True):
                    self.disjoint.union(source_number + source, target_number + found)
                fresh = set(after) - self.reached[target]
                if fresh:
                    self.reached[target] |= fresh
                    stack.append((target, fresh))

    def _join_groups(self, site: Any) -> None:
        """Join the channels that a grouped convolution or a group norm can only lose together."""
        node = site[0]
        groups = count_groups(node.module) if isinstance(node.module, nn.Module) else 1
        if groups == 1:
            return
        for side, size in self._sides(site):
            if not drops_groups(node.module):
                self._join_positions(site, size // groups)
            elif side == OUT:
                self._join_whole_groups(site, size // groups, num_channels(node.module, IN) // groups)

    def _join_positions(self, site: Any, width: int) -> None:
        """Join the channels at the same position of every group: all groups get smaller.

        Args:
            site: A side of a layer.
            width: The number of channels of a group on that side.
        """
        first = self._number(site)
        for index in self.reached[site]:
            self.disjoint.union(first + index, first + index % width)

    def _join_whole_groups(self, site: Any, out_width: int, in_width: int) -> None:
        """Join the channels that a group of a convolution reads and returns: whole groups go.

        Args:
            site: The output of the convolution.
            out_width: The number of output channels of a group.
            in_width: The number of input channels of a group.
        """
        node = site[0]
        first_out, first_in = self._number(site), self._number((node, self._pruner(node).prune_in_channels))
        for index in self.reached[site]:
            group = index // out_width
            for read in range(group * in_width, (group + 1) * in_width):
                self.disjoint.union(first_out + index, first_in + read)

    def _sides(self, site: Any) -> Iterator[tuple[str, int]]:
        """List the sides of a layer that a site stands for, with their numbers of channels."""
        node, function = site
        pruner = self._pruner(node)
        for side, own in ((OUT, pruner.prune_out_channels), (IN, pruner.prune_in_channels)):
            if function == own and num_channels(node.module, side):
                yield side, num_channels(node.module, side)

    def _places(self, site: Any) -> list[tuple[Place, int]]:
        """Return the places that a site stands for, each with its number of channels; none for an operation."""
        node = site[0]
        if isinstance(node.module, nn.Parameter):
            dim = node.pruning_dim % node.module.ndim
            return [((self.names[node.module], str(dim)), node.module.shape[dim])]
        path = self.paths.get(node.module)
        shared = isinstance(node.module, nn.PReLU) and node.module.num_parameters == 1
        if path is None or shared:
            return []
        return [((path, side), size) for side, size in self._sides(site)]

    def _obstacle(self, site: Any) -> str | None:
        """Return the reason why no channel can be removed at a site; None if channels can."""
        node, function = site
        if node.grad_fn in self.outputs and function == self._pruner(node).prune_out_channels:
            return "are the model's output"
        # Check the neighbours as well: an operation may pick channels by indices, which a removal would shift.
        beside = [dependency.target for dependency in node.dependencies if dependency.trigger == function]
        for operation in (node, *beside):
            if operation.module not in self.places and not keeps_channels(operation, self.shapes):
                return f"reach an operation ({operation_name(operation)}) that may mix them"
        return self._obstacle_of_place(node) if node.module in self.places else None

    def _obstacle_of_place(self, node: Any) -> str | None:
        """Return the reason why no channel of a layer or parameter can be removed; None if channels can."""
        module = node.module
        if isinstance(module, nn.Parameter):
            return f"share {self.names[module]} with another layer" if module in self.tied else None
        path = self.paths[module]
        kind = kind_of(module)
        if kind is None:
            return f"reach {path}, a {type(module).__name__} whose channels are not known"
        if any(parameter in self.tied for parameter in module._parameters.values()):
            return f"reach {path}, which shares a weight with another layer"
        by_channel = drops_groups(module) or (IN not in kind.sizes and not isinstance(module, nn.Embedding))
        if by_channel and not node.inputs:
            return f"reach {path}, which reads the model's input channel by channel"
        return None

    def _number(self, site: Any) -> int:
        """Return the number of a site's first channel; its other channels have the numbers that follow."""
        return self.numbers.setdefault(site, len(self.numbers) * _MOST_CHANNELS)
