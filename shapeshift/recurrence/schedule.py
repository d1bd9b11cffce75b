"""Schedules: the order in which the blocks of a stage run, and the loops in it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.recurrence.repeat import own_settings, own_tensors
from shapeshift.recurrence.rows import BlockRow
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.weights import is_weight_shape


@dataclass(frozen=True)
class Schedule:
    """The order in which the blocks of a stage run.

    Attributes:
        stage: The name of the stage, which the names of its groups start with.
        steps: The dotted paths of the modules of the stage, one per step.
        blocks: For each step the index of the step whose block runs. A step with a block of its own has its own index.
        weights: For each step the labels of its weights. Two labels of a stage are equal if the weights are equal up to
            a constant factor.
        own: The parameters and buffers that a block has once per run, such as those of norms, by name within the block.
        settings: The other attributes that a block has once per run, by name within the block.
        notes: The reasons why steps that share weights are not repetitions.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import fold, soft_share
        >>> schedule = fold(soft_share(WideResNet(22, 0.5), templates=1)).schedules[0]
        >>> schedule.steps, schedule.blocks, schedule.loops
        (('blocks.1', 'blocks.2'), (0, 0), {(0, 0): 1})
    """

    stage: str
    steps: tuple[str, ...]
    blocks: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    own: tuple[str, ...]
    settings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def loops(self) -> dict[tuple[int, int], int]:
        """The number of times that a block is followed by itself or an earlier one, by their two indices."""
        return dict(Counter((here, there) for here, there in itertools.pairwise(self.blocks) if there <= here))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, and the loops, as a dict that JSON can hold."""
        loops = [{"from": here, "to": there, "times": times} for (here, there), times in self.loops.items()]
        lists = {name: list(value) for name, value in vars(self).items() if name not in ("stage", "weights")}
        return {"stage": self.stage, **lists, "weights": [list(found) for found in self.weights], "loops": loops}

    def __str__(self) -> str:
        order = " -> ".join(self.steps[block] for block in self.blocks)
        lines = [f"{self.stage} runs {order}" if self.loops else f"{self.stage} has no loop"]
        if self.own:
            owners = dict.fromkeys(name.rpartition(".")[0] or name for name in self.own)
            lines.append(f"  each run has its own tensors in {', '.join(owners)}")
        if self.settings:
            lines.append(f"  each run has its own {', '.join(self.settings)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def find_schedule(model: nn.Module, name: str, stage: BlockRow) -> Schedule:
    """Find the blocks of a stage that are repetitions of earlier ones.

    Args:
        model: A compressed model.
        name: The name of the stage.
        stage: The row of the stage's blocks.
    """
    modules = [model.get_submodule(step) for step in stage.steps]
    weights = [_weights(module) for module in modules]
    numbers: dict[Any, int] = {}
    blocks: list[int] = []
    own: dict[str, None] = {}
    settings: dict[str, None] = {}
    in_part: list[str] = []
    notes: list[str] = []
    for step, (path, module) in enumerate(zip(stage.steps, modules, strict=True)):
        blocks.append(step)
        earlier = list(dict.fromkeys(blocks[:step]))
        equal = [first for first in earlier if weights[first] == weights[step]]
        differences = [_difference(modules[first], module) for first in equal]
        if None in differences:
            blocks[step] = equal[differences.index(None)]
            own |= dict.fromkeys(own_tensors(modules[blocks[step]], module))
            settings |= dict.fromkeys(setting_names(modules[blocks[step]], module))
        elif equal:
            notes.append(f"{path} has the weights of {stage.steps[equal[0]]}, but {differences[0]}: tied only")
        elif any(not set(weights[step].values()).isdisjoint(weights[first].values()) for first in earlier):
            in_part.append(path)
    if in_part:
        notes.append(f"tied with earlier blocks in some of their weights, not in all: {', '.join(in_part)}")
    numbered = [tuple(numbers.setdefault(weight, len(numbers)) for weight in found.values()) for found in weights]
    return Schedule(name, stage.steps, tuple(blocks), tuple(numbered), tuple(own), tuple(settings), tuple(notes))


def _weights(module: nn.Module) -> dict[str, Any]:
    """Return a key for each weight of a module, by its path. Weights that are equal up to a factor have equal keys."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        if is_attached(part):
            found |= {f"{path}.{name}": _origin(*source) for name, source in weight_sources(part).items()}
        plain = {name: p for name, p in part._parameters.items() if p is not None and is_weight_shape(p.shape)}
        found |= {f"{path}.{name}": id(p) for name, p in plain.items()}
    return dict(sorted(found.items()))


def _origin(source: WeightSource, index: int) -> Any:
    """Return a key for the templates and coefficients of a weight; weights with equal keys differ by a factor only."""
    generator = source.generator
    if not isinstance(generator, TemplateGenerator):
        return id(generator), index
    if index in generator.zero_positions or str(index) in generator.upsamplers:
        return id(generator), index
    combination = generator.layout.combinations[index]
    coefficients = generator.layout.owner(index) if combination.count > 1 else None
    return id(generator), combination.templates, coefficients


def _difference(block: nn.Module, step: nn.Module) -> str | None:
    """Return the reason why a block cannot replace a step with the same weights, or None if it can."""
    ours, theirs = dict(block.named_modules()), dict(step.named_modules())
    if ours.keys() != theirs.keys():
        return "is made of other modules"
    for path, module in ours.items():
        if type(module) is not type(theirs[path]):
            return f"has {type(theirs[path]).__name__} as {path}, not {type(module).__name__}"
    return None


def setting_names(block: nn.Module, step: nn.Module) -> list[str]:
    """Return the names of the settings that differ between a block and a step, other than the sources of weights."""
    names = []
    for path, found in own_settings(block, step).items():
        read = weight_sources(step.get_submodule(path)) if is_attached(step.get_submodule(path)) else None
        names += [f"{path}.{name}" if path else name for name, value in found.items() if value is not read]
    return names
