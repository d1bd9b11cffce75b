"""Optional packages, imported where they are asked for: progress bars of tqdm and figures of matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapeshift.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GREY = "#808080"  # as dark on white as it is bright on black


def progress_bar(**options: Any) -> Any:
    """Return a progress bar of tqdm.

    Args:
        **options: Options of ``tqdm.tqdm``, such as ``iterable`` and ``desc``.

    Raises:
        MissingExtraError: if tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the style of all pictures: grey on a transparent ground, for light and dark pages.

    Args:
        figure: The figure, whose texts become grey where they are black.
        path: The image file. Its folder is made if it does not exist.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_color() == "black":
            text.set_color(_GREY)
    for axes in figure.axes:
        axes.tick_params(which="both", colors=_GREY)
        for name, spine in axes.spines.items():
            spine.set_color(_GREY)
            spine.set_visible(name in ("left", "bottom"))
        if legend := axes.get_legend():
            legend.get_frame().set_alpha(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, transparent=True)
