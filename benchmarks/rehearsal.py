"""Two steps of each row of a paper's table, at the full size of its network, on made-up images."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from torchvision.datasets import CIFAR100
from torchvision.utils import save_image

from benchmarks.experiments.pretraining import share_in
from benchmarks.harness import measure
from benchmarks.row import Row
from benchmarks.table import Table
from benchmarks.task import Task

_BATCH = 2  # two steps of it are an epoch


def rehearse(table: Table, device: str = "cpu", patterns: Sequence[str] = ("*",)) -> Iterator[tuple[Row, float, float]]:
    """Train two steps of the rows of a table on random images, and yield each row, its error and the seconds.

    Args:
        table: A table under a paper's recipe.
        device: "cpu" or "cuda".
        patterns: Shell patterns of the rows.
    """
    with TemporaryDirectory() as name, _images(Path(name), table.recipe) as data:
        task = table.task(data, device, Path(name))
        share_in(Path(name))
        try:
            for row in table.rows:
                if any(fnmatchcase(row.key, pattern) for pattern in patterns):
                    start = time.perf_counter()
                    values = measure(table.experiment, _short(row), _shorter(task), 0)
                    yield row, values["error"], time.perf_counter() - start
        finally:
            share_in(None)


def _shorter(task: Task) -> Task:
    return replace(task, recipe=replace(task.recipe, epochs=1, batch_size=_BATCH))


def _short(row: Row) -> Row:
    search = {"search": {**row.options["search"], "epochs": 1}} if "search" in row.options else {}
    return replace(row, options={**row.options, **search})


@contextmanager
def _images(folder: Path, recipe: str) -> Iterator[str]:
    """Write four training images and two test images, and yield the name of the data set that reads them."""
    if recipe == "imagenet":
        for part, count in (("train", 2 * _BATCH), ("val", _BATCH)):
            for index in range(count):
                path = folder / part / f"class{index % _BATCH}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(torch.rand(3, 224, 224), path)
        yield "image_folder"
    else:
        with _cifar100(folder):
            yield "cifar100"


@contextmanager
def _cifar100(folder: Path) -> Iterator[None]:
    """Write files in the format of CIFAR-100, and let torchvision take them for whole."""
    base = folder / CIFAR100.base_folder
    base.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content, protocol=2)
        (base / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def part(name: str, count: int) -> list[list[str]]:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3 * 32 * 32), np.uint8)
        return [[name, write(name, {"data": pixels, "fine_labels": [index % 100 for index in range(count)]})]]

    names = [f"class {index}" for index in range(100)]
    meta = {**CIFAR100.meta, "md5": write(CIFAR100.meta["filename"], {CIFAR100.meta["key"]: names})}
    lists = {"train_list": part("train", 2 * _BATCH), "test_list": part("test", _BATCH), "meta": meta}
    with patch.multiple(CIFAR100, **lists):
        yield
