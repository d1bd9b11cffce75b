"""What the data sets that torchvision reads have in common: it has to be installed, and to be told a folder."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from shapeshift.errors import DataError, MissingExtraError


def torchvision_and_folder(name: str, data_dir: Path | None) -> tuple[ModuleType, Path]:
    """Check what a data set needs before it is read.

    Args:
        name: of the data set.
        data_dir: the folder that the user gave, if any.

    Returns:
        The package torchvision, and the folder.

    Raises:
        MissingExtraError: if torchvision is not installed.
        DataError: if no folder was given.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise MissingExtraError(f"the data set {name!r}", "torchvision")
    if data_dir is None:
        raise DataError(f"the data set {name!r} is read from files: say in which folder they are (data_dir)")
    return importlib.import_module("torchvision"), data_dir
