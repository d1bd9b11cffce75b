"""Runs of one block in a row as a loop in an exported graph, in place of a copy of the block for each run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.errors import ModelError
from shapeshift.recurrence.repeat import StandIn, own_tensors, with_loops
from shapeshift.recurrence.schedule import Schedule, setting_names
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.install import write_weights


class Loop(StandIn):
    """All runs of a block that follow each other, in the place of the first one.

    An exporter gets one ``scan`` over the tensors that each run has for itself, and over the factors by which the runs'
    weights differ. All other calls run the steps.

    Args:
        path: The dotted path of the first step.
        steps: The steps. They have the same weights up to a factor each, and the same settings.
    """

    def __init__(self, path: str, steps: Sequence[nn.Module]) -> None:
        super().__init__(steps[0])
        self.block = steps[0]
        template = write_weights(copy.deepcopy(steps[0])).to("meta")
        vars(self).update(path=path, steps=tuple(steps), template=template)
        own = dict.fromkeys(name for step in steps[1:] for name in own_tensors(steps[0], step))
        states = [_state(step) for step in steps]
        vars(self)["own"] = tuple(own)
        vars(self)["common"] = tuple(name for name in _state(template) if name in states[0] and name not in own)
        for number, name in enumerate(own):
            self.register_buffer(f"own_{number}", torch.stack([state[name].detach() for state in states]))
        weights = [_weights(step) for step in steps]
        factors = [[_factor(weights[0][name], found[name]) for found in weights] for name in weights[0]]
        self.register_buffer("factors", torch.stack([torch.stack(each) for each in factors], 1))

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_exporting():
            for step in vars(self)["steps"]:
                x = step(x, *args, **kwargs)
            return x
        from torch._higher_order_ops.scan import scan

        template, own = vars(self)["template"], vars(self)["own"]
        # A scan takes no views of one store, and warns of tensors that have a graph.
        weights = {name: weight.detach().clone() for name, weight in _weights(self.block).items()}
        state = _state(self.block)
        common = {name: state[name] for name in vars(self)["common"]}

        def run(carried: Tensor, each: list[Tensor]) -> tuple[Tensor, Tensor]:
            factors, *tensors = each
            scaled = {name: factors[number] * weight for number, (name, weight) in enumerate(weights.items())}
            tensors_of_run = {**common, **scaled, **dict(zip(own, tensors, strict=True))}
            found = torch.func.functional_call(template, tensors_of_run, (carried, *args), kwargs)
            return found, carried.new_zeros(1)  # a scan has to stack something

        tensors = [getattr(self, f"own_{number}") for number in range(len(own))]
        try:
            return scan(run, x.detach(), [self.factors, *tensors])[0]
        except Exception as error:
            raise ModelError(
                f"{vars(self)['path']} ({type(self.block).__name__}) cannot be exported as a loop, whose runs take one "
                f"tensor and return one of the same shape and dtype: {type(error).__name__}. Export folding.module, "
                "which has the block once for each run"
            ) from error


class Passed(StandIn):
    """The place of a step that the loop before it has run already."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return x


def with_scans(model: nn.Module, schedules: Iterable[Schedule]) -> nn.Module:
    """Build the form of a model in which the runs of a block that follow each other are one loop.

    Args:
        model: The model. It is not changed, and its parameters and buffers are used, not copied.
        schedules: The schedules of its stages.
    """
    looped = with_loops(model, [])
    for schedule in schedules:
        runs: list[list[str]] = []
        for path, block, before in zip(schedule.steps, schedule.blocks, (None, *schedule.blocks), strict=False):
            step = looped.get_submodule(path)
            if block == before and not is_attached(step):
                first = looped.get_submodule(runs[-1][0])
                if not setting_names(first, step):
                    runs[-1].append(path)
                    continue
            runs.append([path])
        for paths in (found for found in runs if len(found) > 1):
            steps = [looped.get_submodule(path) for path in paths]
            for path, module in zip(paths, [Loop(paths[0], steps), *map(Passed, steps[1:])], strict=True):
                parent, _, name = path.rpartition(".")
                looped.get_submodule(parent)._modules[name] = module
    return looped.eval()


def _state(block: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a block, by dotted name."""
    return {**dict(block.named_parameters()), **dict(block.named_buffers())}


def _weights(block: nn.Module) -> dict[str, Tensor]:
    """Return the generated weights of a block, by dotted name."""
    return {
        f"{path}.{name}": getattr(module, name)
        for path, module in block.named_modules()
        if is_attached(module)
        for name in weight_sources(module)
    }


@torch.no_grad()
def _factor(first: Tensor, other: Tensor) -> Tensor:
    """Return the factor by which a weight differs from another."""
    ours, theirs = first.flatten().double(), other.flatten().double()
    return ((ours @ theirs) / (ours @ ours)).to(first.dtype)
