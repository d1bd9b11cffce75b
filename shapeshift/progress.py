"""Progress bars, where they are asked for."""

from __future__ import annotations

from typing import Any

from shapeshift.errors import MissingExtraError


def progress_bar(**options: Any) -> Any:
    """Return a progress bar of tqdm.

    Args:
        **options: of ``tqdm.tqdm``, such as ``iterable`` and ``desc``.

    Raises:
        MissingExtraError: if tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        raise MissingExtraError("a progress bar", "progress") from None
    return tqdm(**options)
