"""Optional packages, imported where they are asked for: progress bars of tqdm and figures of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shapeshift.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def progress_bar(**options: Any) -> Any:
    """Return a progress bar of tqdm.

    Args:
        **options: Options of ``tqdm.tqdm``, such as ``iterable`` and ``desc``.

    Raises:
        MissingExtraError: if tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        raise MissingExtraError("a progress bar", "progress") from None
    return tqdm(**options)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of matplotlib.

    It is not part of pyplot: it needs no display, and leaves the user's own figures alone.

    Args:
        width: The width in inches.
        height: The height in inches.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a picture", "plot") from None
    return Figure(figsize=(width, height), layout="constrained")
