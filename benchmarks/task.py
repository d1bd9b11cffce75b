"""What networks are trained on: a data set at some size, a recipe, a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """A data set, and how networks are trained on it.

    Attributes:
        data: one of the experiment's data sets.
        recipe: how networks are trained: a frozen dataclass, whose fields a row may replace.
        options: what the data set's loader is given by name.
        device: "cpu" or "cuda".
        data_dir: the folder that the loader reads.
    """

    data: str
    recipe: Any
    options: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    data_dir: Path | None = None
