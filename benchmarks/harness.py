"""The training of a table's rows, each run kept as soon as it is finished."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.experiments.base import Experiment
from benchmarks.experiments.pretraining import share_in
from benchmarks.machine import describe
from benchmarks.row import Row
from benchmarks.runs import Run, RunStore, run_name
from benchmarks.table import Table
from benchmarks.table_runs import TableRuns
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
    store: RunStore,
    rows: Sequence[str] = ("*",),
    again: Sequence[str] = (),
) -> TableRuns:
    """Train the rows of a table over seeds, except for the runs that the store holds already.

    Args:
        table: The table.
        task: The table's task, from :meth:`benchmarks.table.Table.task`.
        seeds: The number of runs of each row. Their seeds are 0, 1, 2 and so on.
        processes: The number of trainings at once, each on one thread.
        store: The store that runs are looked up in and added to.
        rows: Shell patterns of the rows to train.
        again: Shell patterns of the rows to repeat. Their runs are removed first.

    Returns:
        All runs of the table.
    """
    torch.set_num_threads(1)
    machine, sizes = describe(task.device), json.loads(json.dumps(table.experiment.describe(task)))
    for row in table.rows:
        if _fits(row, again):
            for found in store.find(table.settings(row, task)):
                store.remove(found.name)
    # Seed by seed: a table that is stopped early has seen every row equally often.
    jobs = {
        run_name(table.settings(row, task), seed): (row, task, seed)
        for seed in range(seeds)
        for row in table.rows
        if _fits(row, rows)
    }
    # A folder of images may hold other ones than it did: then the sizes of the data have changed.
    missing = [job for name, job in jobs.items() if name not in store.runs or store.runs[name].sizes != sizes]
    folder = TemporaryDirectory()
    # CUDA does not work in a forked process.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), share_in, (Path(folder.name),))
    try:
        futures = {pool.submit(measure, table.experiment, *job): job for job in missing}
        done = len(jobs) - len(missing)
        for future in tqdm(as_completed(futures), table.name, len(jobs), initial=done, unit="run"):
            row, _, seed = futures[future]
            try:
                values = future.result()
            except Exception as exception:
                exception.add_note(f"in the run {row.key}/{seed}")
                raise
            store.add(Run(table.settings(row, task), seed, sizes, machine, values))
    finally:
        pool.shutdown(cancel_futures=True)
        folder.cleanup()
    return TableRuns.find(table, task, store)


def _fits(row: Row, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(row.key, pattern) for pattern in patterns)
