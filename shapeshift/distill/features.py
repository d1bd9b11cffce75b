"""Places in a model where a feature can be read, and how its axes are laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from shapeshift.distill.trace import Call, Trace, Value
from shapeshift.running.channels import channel_axis
from shapeshift.surgery.attached import is_attached


@dataclass(frozen=True)
class Feature:
    """A place in a model where a feature can be read.

    Attributes:
        path: the dotted path of a module.
        side: whether the feature is what the module takes or what it returns.
        shape: of the feature on the example input, the batch first.
        axis: which one of its axes counts channels.
        norm: the normalisation whose scale and shift say how its channels are distributed; None where there is none.
        is_rectified: whether none of its entries was negative on the example input.
        is_overwritten: whether the model writes over it later, so that readers need the model to go on with a copy.
    """

    path: str
    side: Literal["input", "output"]
    shape: tuple[int, ...]
    axis: int
    norm: nn.Module | None
    is_rectified: bool
    is_overwritten: bool

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return self.shape[self.axis]

    @property
    def resolution(self) -> tuple[int, ...]:
        """Its extents beside batch and channels, which are rows and columns of a map or the length of a sequence."""
        return tuple(extent for axis, extent in enumerate(self.shape) if axis not in (0, self.axis))

    def as_maps(self, feature: Tensor) -> Tensor:
        """Lay a feature that was read here out as maps of shape (N, channels, rows, columns); sequences are columns."""
        maps = feature.movedim(self.axis, 1)
        while maps.dim() < 4:
            maps = maps.unsqueeze(-1)
        return maps.flatten(3)

    def __str__(self) -> str:
        resolution = " x ".join(map(str, self.resolution)) or "1"
        place = f"the input of {self.path}" if self.side == "input" else self.path or "the model's output"
        return f"{place} ({self.channels} channels, {resolution})"


def positions(shape: Sequence[int], axis: int | None = None) -> int:
    """Return at how many places of an image or a sequence a feature of some shape has values.

    Args:
        shape: the batch first.
        axis: the one that counts channels; where it is not known, the second one of maps, unless they look like rows,
            columns and channels, and the last one of sequences.
    """
    return math.prod(shape[1:]) // max(1, shape[channel_axis(shape) if axis is None else axis])


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module normalises: batch norm, layer norm and the like, of whatever library."""
    named = "Norm" in type(module).__name__ and not is_attached(module)
    return named and all(parameter.dim() == 1 for parameter in module.parameters())


def locate(trace: Trace, value: Value, norm: Call | None = None) -> Feature | None:
    """Find a module that takes or returns a value, where a hook can read it; None if no module does.

    Args:
        trace: the pass in which the value was met.
        value: what is looked for.
        norm: the call of the normalisation behind it.
    """
    # A hook keeps what the last call of a module in a pass brings. The outermost module has the shortest name, but what
    # checkpoints gradients may call the parts of a sequence and not the sequence.
    last = {call.path: call for call in trace.calls}.values()
    found: Feature | None = None
    for side in ("input", "output"):
        calls = [call for call in last if call.path and getattr(call, side) == value]
        if side == "output":  # a dropout that is off hands on what it gets, and in training it does not
            calls = [call for call in calls if not isinstance(call.module, nn.modules.dropout._DropoutNd)]
        calls = [call for call in calls if type(call.module) is not nn.Sequential] or calls
        if calls:
            shape = tuple(value.tensor.shape)
            axis = channel_axis(shape, None if norm is None else norm_channels(norm.module))
            found = Feature(
                min(calls, key=lambda call: call.path.count(".")).path,
                side,  # type: ignore[arg-type]
                shape,
                axis,
                None if norm is None else norm.module,
                bool((value.tensor >= 0).all()) and not value.is_overwritten,
                value.is_overwritten,
            )
    return found


def norm_channels(norm: nn.Module) -> int | None:
    """Return how many channels a normalisation scales; None where it does not scale any."""
    weight = norm._parameters.get("weight")
    return None if weight is None else weight.numel()
