"""Running a block again: the module that stands where a network comes back to a block that it has run before."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from shapeshift.errors import ModelError
from shapeshift.layers import is_attached


class Repeat(nn.Module):
    """Run a block once more, with what differs from run to run: norms, biases, settings, gains of generated weights.

    Args:
        block: what is run. It is a part of the network where it runs first, and is only referred to here.
        step: the block that this run takes the place of, made of the same classes of modules. Its parameters and
            buffers are used where they are not those of ``block``, and become those of this module.
    """

    def __init__(self, block: nn.Module, step: nn.Module) -> None:
        super().__init__()
        persistent = step.state_dict()
        for name, tensor in own_tensors(block, step).items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(last, tensor)
            else:
                owner.register_buffer(last, tensor, persistent=name in persistent)
        # Neither a submodule, which would be in a state dict twice, nor there before all names are taken.
        self.__dict__["_settings"] = own_settings(block, step)
        self.__dict__["_generated"] = [path for path, module in block.named_modules() if is_attached(module)]
        self.__dict__["_block"] = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        block: nn.Module = self.__dict__["_block"]
        if not all(is_attached(block.get_submodule(path)) for path in self.__dict__["_generated"]):
            raise ModelError(
                "the weights that this block repeats are not generated any more, and the factors between its runs are "
                "lost: materialize the folded model, not its recurrent form"
            )
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        with _set(block, self.__dict__["_settings"]):
            return functional_call(block, own, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        # Whoever reads a setting of a block, instead of calling it, gets this run's.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_block" not in self.__dict__ or isinstance(getattr(self.__dict__["_block"], name), Tensor):
                raise
            return self.__dict__["_settings"].get("", {}).get(name, getattr(self.__dict__["_block"], name))


def own_tensors(block: nn.Module, step: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a step that are not the same tensors as a block's, by dotted name."""
    ours, theirs = _tensors(block), _tensors(step)
    return {name: tensor for name, tensor in theirs.items() if ours.get(name) is not tensor}


class Missing:
    """Stands for an attribute that is not there; a class, so that copies of it are the same."""


def own_settings(block: nn.Module, step: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what else differs between the modules of a block and of a step: attributes of a module, by its path."""
    found = {}
    for (path, ours), (_, theirs) in zip(block.named_modules(), step.named_modules(), strict=True):
        here, there = vars(ours), vars(theirs)
        names = (here.keys() | there.keys()) - _STATE
        different = {
            name: there.get(name, Missing)
            for name in sorted(names)
            if not _same(here.get(name, Missing), there.get(name, Missing))
        }
        if different:
            found[path] = different
    return found


def with_loops(model: nn.Module, stages: Sequence[tuple[Sequence[str], Sequence[int]]]) -> nn.Module:
    """Build the form of a model in which each block exists once, and is run as often as its schedule says.

    Args:
        model: the model; it is not changed, and its parameters and buffers are used, not copied.
        stages: for each row of blocks their paths, and for each of them the index of the first one that is the same.
    """
    tensors = [*model.parameters(), *model.buffers()]
    looped = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for steps, schedule in stages:
        for path, first in zip(steps, schedule, strict=True):
            if steps[first] != path:
                parent, _, name = path.rpartition(".")
                repeat = Repeat(looped.get_submodule(steps[first]), looped.get_submodule(path))
                looped.get_submodule(parent)._modules[name] = repeat
    return looped


@contextmanager
def _set(block: nn.Module, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Give the modules of a block other settings for a while."""
    before = {}
    for path, found in settings.items():
        values = vars(block.get_submodule(path))
        before[path] = {name: values.get(name, Missing) for name in found}
    try:
        _write(block, settings)
        yield
    finally:
        _write(block, before)


def _write(block: nn.Module, settings: Mapping[str, Mapping[str, Any]]) -> None:
    for path, found in settings.items():
        values = vars(block.get_submodule(path))
        for name, value in found.items():
            if value is Missing:
                values.pop(name, None)
            else:
                values[name] = value


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return named | dict(module.named_buffers(remove_duplicate=False))


# What is no setting: the tensors and children of a module, and its mode, which all runs of a block have in common.
_STATE = {"_parameters", "_buffers", "_modules", "training"}


def _same(ours: Any, theirs: Any) -> bool:
    if ours is theirs or isinstance(ours, Tensor) or isinstance(theirs, Tensor):
        return ours is theirs
    try:
        return bool(ours == theirs)
    except (RuntimeError, TypeError, ValueError):  # arrays and the like, which have no single answer
        return False
