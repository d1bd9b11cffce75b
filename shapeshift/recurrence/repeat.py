"""Running a block again: the module in the place of a block that has the weights of an earlier one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from shapeshift.surgery.attached import is_attached

# The state that a step and the module in its place share. Moving, converting or assigning a tensor in one of them does
# the same in the other.
_STATE = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


class StandIn(nn.Module):
    """A module in the place of a step. What it does not have itself is read from that step.

    Args:
        step: The step. It is no submodule.
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        vars(self)["_step"] = step

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_step" not in vars(self):  # while it is copied
                raise
            return getattr(vars(self)["_step"], name)


class Repeat(StandIn):
    """A module that runs a block once more, with norms, biases, settings and gains of its own.

    Its weights are generated from the same parameters as the block's. Its other parameters, buffers and settings are
    those of the step that it replaces. Every other attribute is read from that step and written to it.

    Args:
        block: The dotted path of the block that runs again.
        step: The module that is replaced.

    Example:
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import fold, soft_share
        >>> model = soft_share(WideResNet(22, 0.5), templates=1)
        >>> fold(model).module.blocks[2].extra_repr()
        'blocks.1 again'
    """

    def __init__(self, block: str, step: nn.Module) -> None:
        super().__init__(step)
        vars(self).update(block=block, **{name: vars(step)[name] for name in _STATE})
        del vars(self)["training"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["_step"](*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self).get("_step", super()), name, value)

    def extra_repr(self) -> str:
        """Return the name of the block that runs again."""
        return f"{self.block} again"


def own_tensors(block: nn.Module, step: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a step that are not the same tensors as a block's, by dotted name."""
    ours, theirs = _tensors(block), _tensors(step)
    return {name: tensor for name, tensor in theirs.items() if ours.get(name) is not tensor}


# The value of an attribute that a module does not have.
_MISSING = object()


def own_settings(block: nn.Module, step: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the other attributes of a step that differ from the block's, by the path of their module."""
    found = {}
    for (path, ours), (_, theirs) in zip(block.named_modules(), step.named_modules(), strict=True):
        here, there = vars(ours), vars(theirs)
        # All runs of a block are in the same mode.
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
    """Build the form of a model in which each block runs as often as its schedule says.

    Args:
        model: The model. It is not changed, and its parameters and buffers are used, not copied.
        stages: The paths of the blocks of each row, and for each block the index of the first block that equals it.
    """
    tensors = [*model.parameters(), *model.buffers()]
    looped = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for steps, schedule in stages:
        for path, first in zip(steps, schedule, strict=True):
            step = looped.get_submodule(path)
            # A generated layer by itself is just its weight, so it stays.
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
    except (RuntimeError, TypeError, ValueError):  # the comparison of arrays has no single answer
        return False
