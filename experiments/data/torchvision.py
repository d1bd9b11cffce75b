"""The checks of the data sets that torchvision reads: it has to be installed, and needs a folder."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from shapeshift.errors import DataError, MissingExtraError


def torchvision_and_folder(name: str, data_dir: Path | None) -> tuple[ModuleType, Path]:
    """Check that torchvision is installed and a folder is given.

    Args:
        name: The name of the data set.
        data_dir: The folder that the user gave, or None.

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
