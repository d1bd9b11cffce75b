"""Channels: the axis of a feature that they lie on."""

from collections.abc import Sequence


def channel_axis(shape: Sequence[int], channels: int | None = None) -> int:
    """Return the axis that counts channels, from a feature's shape and the number of channels where it is known."""
    channels_last = len(shape) == 3 or (len(shape) == 4 and shape[1] == shape[2] != shape[3])
    likely, other = (len(shape) - 1, 1) if channels_last else (1, len(shape) - 1)
    return other if channels is not None and shape[likely] != channels == shape[other] else likely
