"""Many trainings, kept as they finish."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

import shapeshift
from benchmarks.experiments.base import Experiment
from benchmarks.experiments.pretraining import share_in
from benchmarks.machine import describe
from benchmarks.results import Results
from benchmarks.row import Row
from benchmarks.table import Table
from benchmarks.task import Task


def measure(experiment: Experiment, row: Row, task: Task, seed: int) -> dict[str, Any]:
    """Train the network of a row on one thread, and return its number of parameters and its metrics."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return experiment.run(row, task, seed)


def run(
    table: Table,
    task: Task,
    seeds: int,
    processes: int,
    path: Path,
    rows: Sequence[str] = ("*",),
    again: Sequence[str] = (),
    others: Mapping[Path, Table] = MappingProxyType({}),
) -> Results:
    """Train the rows of a table over seeds, and keep each run in a file as soon as it is finished.

    Runs that the file holds already are not repeated, unless they were made under other settings: then they are left
    out.

    Args:
        table: what to train.
        task: what to train it on.
        seeds: runs of each row, of the seeds 0, 1, 2 and so on.
        processes: how many trainings at once, each on one thread.
        path: the JSON file.
        rows: shell patterns of the rows to train.
        again: shell patterns of the rows whose runs in the file are repeated.
        others: tables whose files hold runs that may be the same ones.

    Returns:
        All runs.
    """
    torch.set_num_threads(1)
    task = table.adapt(task)
    settings = {
        **table.experiment.settings(task),
        "config": shapeshift.Config().to_dict(),
        "machine": describe(task.device),
    }
    results = Results.resume(path, settings, table.rows)
    results.drop(again)
    for other, compared in others.items():
        if other != path and other.exists() and not again:
            results.borrow(other, compared.rows, table.rows)
    # Seed by seed: a table that is stopped early has seen every row equally often.
    chosen = [row for row in table.rows if any(fnmatchcase(row.key, pattern) for pattern in rows)]
    jobs = {f"{row.key}/{seed}": (row, task, seed) for seed in range(seeds) for row in chosen}
    missing = {key: job for key, job in jobs.items() if key not in results.runs}
    folder = TemporaryDirectory()
    # CUDA does not work in a forked process.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), share_in, (Path(folder.name),))
    try:
        futures = {pool.submit(measure, table.experiment, *job): key for key, job in missing.items()}
        done = len(jobs) - len(missing)
        for future in tqdm(as_completed(futures), table.name, len(jobs), initial=done, unit="run"):
            key = futures[future]
            try:
                results.runs[key] = future.result()
            except Exception as exception:
                exception.add_note(f"in the run {key}")
                raise
            results.write(path)
    finally:
        pool.shutdown(cancel_futures=True)
        folder.cleanup()
    results.write(path)  # also where every run was taken over
    return results
