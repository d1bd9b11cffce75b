"""Keep arrays on disk that take long to make."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shapeshift.checkpoint.replacing import replacing

Arrays = Mapping[str, NDArray[np.uint8]]


def cache_dir() -> Path:
    """Return the user's cache folder: ``shapeshift`` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shapeshift"


def load_or_make(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Read arrays from a file, or make them and write the file.

    Args:
        path: The .npz file. A file that cannot be read, such as a truncated one, is replaced.
        make: The function that makes the arrays.

    Returns:
        The arrays by name.
    """
    try:
        with path.open("rb") as stored, np.load(stored) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as written, written.open("wb") as file:
        np.savez(file, **made)  # type: ignore[arg-type]
    return made
