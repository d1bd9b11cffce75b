"""Figures, where they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shapeshift.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of matplotlib.

    It stands outside of pyplot: it needs no display, and leaves the user's own figures alone.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a picture", "plot") from None
    return Figure(figsize=(width, height), layout="constrained")
