"""Golden numbers: inputs of published implementations, and the outputs and gradients that they gave.

They are read from ``tests/golden``, or from the folder that the environment variable ``SHAPESHIFT_GOLDEN`` names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]

FOLDER = Path(os.environ.get("SHAPESHIFT_GOLDEN", Path(__file__).with_suffix("")))


def golden(name: str) -> Arrays:
    """Read all arrays of one file.

    Args:
        name: the file's name without its suffix.

    Raises:
        FileNotFoundError: if the folder has no such file.
    """
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def cases(name: str, prefix: str = "c", count: str = "num_cases") -> list[Arrays]:
    """Read the cases of a file, each as its arrays by their names without ``{prefix}{number}_``.

    Args:
        name: the file's name without its suffix.
        prefix: what the names of a case's arrays start with, before its number.
        count: the array that holds how many cases there are.

    Raises:
        FileNotFoundError: if the folder has no such file.
        ValueError: if a case that is counted has no arrays.
    """
    arrays = golden(name)
    found = []
    for number in range(int(arrays[count])):
        start = f"{prefix}{number}_"
        case = {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}
        if not case:
            raise ValueError(f"{name}.npz in {FOLDER} counts {arrays[count]} cases, and has no array {start}*")
        found.append(case)
    return found


def table(name: str) -> list[Arrays]:
    """Read the rows of a file's table: for each, one entry of every array ``table_*``, by the rest of its name.

    Args:
        name: the file's name without its suffix.

    Raises:
        FileNotFoundError: if the folder has no such file.
        ValueError: if its columns are of different lengths.
    """
    columns = {key.removeprefix("table_"): array for key, array in golden(name).items() if key.startswith("table_")}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
