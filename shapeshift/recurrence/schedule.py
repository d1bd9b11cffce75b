"""What runs when: the blocks of a stage, and the loops in which they repeat."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.generators import WeightGenerator
from shapeshift.generators.template_generator import TemplateGenerator
from shapeshift.recurrence.repeat import own_settings, own_tensors
from shapeshift.recurrence.rows import BlockRow
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.weights import is_weight_shape


@dataclass(frozen=True)
class Schedule:
    """The order in which the blocks of a stage run.

    Attributes:
        stage: the name that its groups start with.
        steps: the dotted paths of the modules that stand in a row, one per step.
        blocks: for each step the number of the step whose block runs; its own where that is a new one.
        weights: for each step its weights, as numbers that are equal where two differ by a constant factor only.
        own: the parameters and buffers that a block has for each of its runs, such as norms, by name within the block.
        settings: what else is set anew for each run, by name within the block.
        notes: why steps that share weights are no loop.
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
        """How often each way back is taken, from a block to itself or to one before it."""
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
    """Find which blocks of a stage are the same one, and can be run in one another's place.

    Args:
        model: a compressed model.
        name: how the stage is called.
        stage: the row of its blocks.
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
        alike = [first for first in earlier if weights[first] == weights[step]]
        differences = [_difference(modules[first], module) for first in alike]
        if None in differences:
            blocks[step] = alike[differences.index(None)]
            own |= dict.fromkeys(own_tensors(modules[blocks[step]], module))
            settings |= dict.fromkeys(_setting_names(modules[blocks[step]], module))
        elif alike:
            notes.append(f"{path} has the weights of {stage.steps[alike[0]]}, but {differences[0]}: tied only")
        elif any(not set(weights[step].values()).isdisjoint(weights[first].values()) for first in earlier):
            in_part.append(path)
    if in_part:
        notes.append(f"tied with earlier blocks in some of their weights, not in all: {', '.join(in_part)}")
    numbered = [tuple(numbers.setdefault(weight, len(numbers)) for weight in found.values()) for found in weights]
    return Schedule(name, stage.steps, tuple(blocks), tuple(numbered), tuple(own), tuple(settings), tuple(notes))


def _weights(module: nn.Module) -> dict[str, Any]:
    """Identify the weights of a module, by name: generated ones by where they come from, plain ones by the tensor."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        if is_attached(part):
            found |= {f"{path}.{name}": _origin(*source) for name, source in weight_sources(part).items()}
        plain = {name: p for name, p in part._parameters.items() if p is not None and is_weight_shape(p.shape)}
        found |= {f"{path}.{name}": id(p) for name, p in plain.items()}
    return dict(sorted(found.items()))


def _origin(group: WeightGenerator[Any], index: int) -> Any:
    """Identify a weight by what it is made of, which weights that differ by a constant factor have in common."""
    if not isinstance(group, TemplateGenerator) or index in group.zeros or str(index) in group.upsamplers:
        return id(group), index
    draw = group.layout.draws[index]
    coefficients = group.layout.owner(index) if draw.count > 1 else None
    return id(group), *draw.templates, coefficients


def _difference(block: nn.Module, step: nn.Module) -> str | None:
    """Tell why a block cannot run in the place of another that has the same weights; None if it can."""
    ours, theirs = dict(block.named_modules()), dict(step.named_modules())
    if ours.keys() != theirs.keys():
        return "is made of other modules"
    for path, module in ours.items():
        if type(module) is not type(theirs[path]):
            return f"has {type(theirs[path]).__name__} as {path}, not {type(module).__name__}"
    return None


def _setting_names(block: nn.Module, step: nn.Module) -> list[str]:
    """Name what a run of a block has as settings of its own, beside where its weights come from."""
    names = []
    for path, found in own_settings(block, step).items():
        read = weight_sources(step.get_submodule(path)) if is_attached(step.get_submodule(path)) else None
        names += [f"{path}.{name}" if path else name for name, value in found.items() if value is not read]
    return names
