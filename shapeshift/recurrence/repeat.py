"""Running a block again: what stands where a network comes back to a block that it has run before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from shapeshift.surgery.attached import is_attached

# What a step and the module in its place have in common, so that what is moved, converted or assigned in one is so in
# the other.
_STATE = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


class Repeat(nn.Module):
    """Run a block once more, with what differs from run to run: norms, biases, settings, gains of generated weights.

    Its weights are the block's, which are generated from the same numbers. What is its own are the parameters, buffers
    and settings of the step that it takes the place of, and every other attribute is read and written there.

    Args:
        block: the dotted path of what is run again.
        step: the module of the step.
    """

    def __init__(self, block: str, step: nn.Module) -> None:
        super().__init__()
        vars(self).update(block=block, _step=step, **{name: vars(step)[name] for name in _STATE})
        del vars(self)["training"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["_step"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_step" not in vars(self):  # while it is copied
                raise
            return getattr(vars(self)["_step"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self).get("_step", super()), name, value)

    def extra_repr(self) -> str:
        """Name the block."""
        return f"{self.block} again"


def own_tensors(block: nn.Module, step: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a step that are not the same tensors as a block's, by dotted name."""
    ours, theirs = _tensors(block), _tensors(step)
    return {name: tensor for name, tensor in theirs.items() if ours.get(name) is not tensor}


# Stands for an attribute that is not there.
_MISSING = object()


def own_settings(block: nn.Module, step: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what else differs between the modules of a block and of a step: attributes of a module, by its path."""
    found = {}
    for (path, ours), (_, theirs) in zip(block.named_modules(), step.named_modules(), strict=True):
        here, there = vars(ours), vars(theirs)
        # The mode is one that all runs of a block have in common.
        names = (here.keys() | there.keys()) - {*_STATE, "training"}
        different = {
            name: there.get(name, _MISSING)
            for name in sorted(names)
            if not _same(here.get(name, _MISSING), there.get(name, _MISSING))
        }
        if different:
            found[path] = different
    return found


def with_loops(model: nn.Module, stages: Sequence[tuple[Sequence[str], Sequence[int]]]) -> nn.Module:
    """Build the form of a model in which each block is run as often as its schedule says.

    Args:
        model: the model; it is not changed, and its parameters and buffers are used, not copied.
        stages: for each row of blocks their paths, and for each of them the index of the first one that is the same.
    """
    tensors = [*model.parameters(), *model.buffers()]
    looped = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for steps, schedule in stages:
        for path, first in zip(steps, schedule, strict=True):
            step = looped.get_submodule(path)
            # A layer that is generated itself is no more than its weight, and stays.
            if steps[first] != path and not is_attached(step):
                parent, _, name = path.rpartition(".")
                looped.get_submodule(parent)._modules[name] = Repeat(steps[first], step)
    return looped


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


def _same(ours: Any, theirs: Any) -> bool:
    if ours is theirs or isinstance(ours, Tensor) or isinstance(theirs, Tensor):
        return ours is theirs
    try:
        return bool(ours == theirs)
    except (RuntimeError, TypeError, ValueError):  # arrays and the like, which have no single answer
        return False
