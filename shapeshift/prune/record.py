"""Pruning records: the channels that a pruned model kept, as the model carries and a checkpoint stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from shapeshift.prune.layers import IN, OUT, keep_channels, num_channels, select_channels

ATTRIBUTE = "shapeshift_pruning"


@dataclass(frozen=True)
class Kept:
    """The channels that one side of a layer kept.

    Attributes:
        total: The number of channels before.
        indices: The kept channels, in ascending order.
    """

    total: int
    indices: tuple[int, ...]

    def after(self, earlier: Kept | None) -> Kept:
        """Return the channels of the full model that are kept by an earlier step and then by this one."""
        if earlier is None:
            return self
        return Kept(earlier.total, tuple(earlier.indices[index] for index in self.indices))


# For each dotted path, the kept channels on each side: "out" and "in" of a layer, or a parameter's dimension as digits.
Cuts = Mapping[str, Mapping[str, Kept]]


@dataclass(frozen=True)
class PruningRecord:
    """The difference between a pruned model and the full one.

    Attributes:
        cuts: The channels that each layer kept.
        inputs: The shape and dtype of each input, by name or by position as digits, for a batch of one.
        parameters: The number of trainable parameters of the full model.
        macs: The number of multiply-accumulates of the full model for these inputs.
    """

    cuts: Cuts
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    parameters: int
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {
            "cuts": {
                path: {side: {"total": kept.total, "kept": list(kept.indices)} for side, kept in sides.items()}
                for path, sides in self.cuts.items()
            },
            "inputs": {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in self.inputs.items()},
            "parameters": self.parameters,
            "macs": self.macs,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PruningRecord:
        """Read the output of :meth:`to_dict`; anything else raises a ``KeyError``, ``TypeError`` or ``ValueError``."""
        cuts = {
            str(path): {
                str(side): Kept(int(kept["total"]), tuple(map(int, kept["kept"]))) for side, kept in sides.items()
            }
            for path, sides in dict(content["cuts"]).items()
        }
        for path, sides in cuts.items():
            for kept in sides.values():
                if not kept.indices or list(kept.indices) != sorted(set(kept.indices) & set(range(kept.total))):
                    raise ValueError(f"the kept channels of {path} are not ascending integers below {kept.total}")
        inputs = {
            str(name): (tuple(map(int, found["shape"])), str(found["dtype"]))
            for name, found in dict(content["inputs"]).items()
        }
        return cls(cuts, inputs, int(content["parameters"]), int(content["macs"]))


def find_pruned(model: nn.Module) -> nn.Module | None:
    """Return the pruned model in a module, which may be a wrapper such as DDP; None if there is none."""
    return next((module for module in model.modules() if ATTRIBUTE in module.__dict__), None)


def record_of(model: nn.Module) -> PruningRecord | None:
    """Return the record of the pruned model in a module; None if there is none."""
    pruned = find_pruned(model)
    return None if pruned is None else pruned.__dict__[ATTRIBUTE]


def attach_record(model: nn.Module, cuts: Cuts, record: PruningRecord) -> None:
    """Give a model the record of its pruning, combined with the record that it may already have."""
    earlier = record_of(model)
    if earlier is not None:
        composed = {path: dict(sides) for path, sides in earlier.cuts.items()}
        for path, sides in cuts.items():
            before = composed.setdefault(path, {})
            before |= {side: kept.after(before.get(side)) for side, kept in sides.items()}
        cuts, record = composed, earlier
    model.__dict__[ATTRIBUTE] = dataclasses.replace(record, cuts=cuts)


def cut_differences(model: nn.Module, cuts: Cuts) -> list[str]:
    """List the layers that keep a model from being cut as recorded: missing, or with other numbers of channels."""
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = []
    for path, sides in cuts.items():
        if path not in modules and path not in parameters:
            found.append(f"{path} is not a layer of the model")
            continue
        for side, kept in sides.items():
            if path in modules:
                size = num_channels(modules[path], side)
            else:
                size = dict(enumerate(parameters[path].shape)).get(int(side), 0)
            if size != kept.total:
                what = {OUT: "output channels", IN: "input channels"}.get(side, f"entries in dimension {side}")
                found.append(f"{path} had {kept.total} {what} before it was pruned, and has {size} in the model")
    return found


def cut(model: nn.Module, cuts: Cuts) -> None:
    """Remove channels from a full model, in place."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, sides in cuts.items():
        if path in modules:
            keep_channels(modules[path], {side: kept.indices for side, kept in sides.items()})
        else:
            owner, _, name = path.rpartition(".")
            module = model.get_submodule(owner)
            for dim, kept in sides.items():
                setattr(module, name, select_channels(getattr(module, name), int(dim), kept.indices))


@contextmanager
def pruned_as(model: nn.Module, record: PruningRecord) -> Iterator[None]:
    """Prune a model as recorded, and undo it if the code in the ``with`` block fails."""
    before = {
        module: {name: dict(value) if isinstance(value, dict) else value for name, value in module.__dict__.items()}
        for module in model.modules()
    }
    try:
        cut(model, record.cuts)
        attach_record(model, record.cuts, record)
        yield
    except BaseException:
        for module, attributes in before.items():
            module.__dict__.clear()
            module.__dict__.update(attributes)
        raise
