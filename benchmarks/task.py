"""The task of a table: a data set of some size, a recipe and a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """A data set, a recipe and a device.

    Attributes:
        data: The name of one of the experiment's data sets.
        recipe: The recipe that networks are trained by: a frozen dataclass, whose fields a row may replace.
        options: The keyword arguments of the data set's loader.
        device: "cpu" or "cuda".
        data_dir: The folder that the loader reads. None for a data set that is not read from files.
    """

    data: str
    recipe: Any
    options: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    data_dir: Path | None = None
