"""Places in a model where a feature can be read, and how its axes are laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from shapeshift.distill.trace import Call, Trace, Value
from shapeshift.running.channels import channel_axis
from shapeshift.surgery.attached import is_attached, original_class


@dataclass(frozen=True)
class Feature:
    """A place in a model where a feature can be read.

    Attributes:
        path: The dotted path of a module.
        side: Whether the feature is the input or the output of the module.
        shape: The shape of the feature on the example input; the batch is the first axis.
        axis: The axis that counts channels.
        norm: The normalisation whose scale and shift describe the distribution of each channel; None if there is none.
        is_rectified: Whether no entry was negative on the example input.
        is_overwritten: Whether the model overwrites it later, so that it has to be copied when it is read.
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
        """The number of channels."""
        return self.shape[self.axis]

    @property
    def resolution(self) -> tuple[int, ...]:
        """The sizes of all axes but batch and channels, such as the rows and columns of a map."""
        return tuple(extent for axis, extent in enumerate(self.shape) if axis not in (0, self.axis))

    def as_maps(self, feature: Tensor) -> Tensor:
        """Arrange a feature as maps of shape (N, channels, rows, columns); a sequence becomes a column."""
        maps = feature.movedim(self.axis, 1)
        while maps.dim() < 4:
            maps = maps.unsqueeze(-1)
        return maps.flatten(3)

    def __str__(self) -> str:
        resolution = " x ".join(map(str, self.resolution)) or "1"
        place = f"the input of {self.path}" if self.side == "input" else self.path or "the model's output"
        return f"{place} ({self.channels} channels, {resolution})"


def positions(shape: Sequence[int], axis: int | None = None) -> int:
    """Return the number of positions of a feature: pixels of a map, tokens of a sequence.

    Args:
        shape: The shape of the feature; the batch is the first axis.
        axis: The axis that counts channels. None guesses it from the shape: the last axis of a sequence, and the
            second axis of a map, unless the shape looks like (N, rows, columns, channels).
    """
    return math.prod(shape[1:]) // max(1, shape[channel_axis(shape) if axis is None else axis])


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a normalisation, such as a batch norm or layer norm, of any library."""
    named = "Norm" in type(module).__name__ and not is_attached(module)
    return named and all(parameter.dim() == 1 for parameter in module.parameters())


def locate(trace: Trace, value: Value, norm: Call | None = None) -> Feature | None:
    """Find a module that takes or returns a value, where a hook can read it; None if no module does.

    Args:
        trace: The pass that computed the value.
        value: The value to find.
        norm: The call of the normalisation that describes the value's channels.
    """
    # A hook keeps the value of a module's last call in a pass. The outermost module is the one to hook, but not an
    # nn.Sequential: gradient checkpointing may call its parts instead of it.
    last = {call.path: call for call in trace.calls}.values()
    found: Feature | None = None
    for side in ("input", "output"):
        calls = [call for call in last if call.path and getattr(call, side) == value]
        if side == "output":  # a dropout returns its input in evaluation, but not in training
            calls = [call for call in calls if not isinstance(call.module, nn.modules.dropout._DropoutNd)]
        calls = [call for call in calls if original_class(call.module) is not nn.Sequential] or calls
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
    """Return the number of channels that a normalisation scales; None if it has no scale."""
    weight = norm._parameters.get("weight")
    return None if weight is None else weight.numel()
