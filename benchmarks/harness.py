"""The training of a table's rows: a run is kept once it is finished, and its state after each epoch until then."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from benchmarks.experiments.base import Experiment
from benchmarks.experiments.pretraining import share_in
from benchmarks.experiments.resumable import keep_in
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


def _measure_resumably(folder: Path, *job: Any) -> dict[str, Any]:
    """Measure a row, with the states of its trainings in a folder, where a killed process may have left some."""
    keep_in(folder)
    try:
        return measure(*job)
    finally:
        keep_in(None)


def _start_worker(folder: Path, places: Any) -> None:
    """Let a process share pretrained networks with the others, and give it a GPU of its own where there are several."""
    share_in(folder)
    if torch.cuda.is_available():
        torch.cuda.set_device(places.get() % torch.cuda.device_count())


class _ThisProcess(Executor):
    """Train in this process, as all processes of a group do at once."""

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **options))
        return future


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
    context = multiprocessing.get_context("spawn")  # CUDA does not work in a forked process
    places = context.SimpleQueue()
    for place in range(processes):
        places.put(place)
    pool: Executor = _ThisProcess()
    if not dist.is_initialized():
        pool = ProcessPoolExecutor(processes, context, _start_worker, (Path(folder.name), places))

    def kept(job: tuple[Row, Task, int]) -> Path:
        return store.folder.parent / "unfinished" / run_name(table.settings(job[0], task), job[2])

    try:
        futures = {pool.submit(_measure_resumably, kept(job), table.experiment, *job): job for job in missing}
        done = len(jobs) - len(missing)
        for future in tqdm(as_completed(futures), table.name, len(jobs), initial=done, unit="run"):
            row, _, seed = futures[future]
            try:
                values = future.result()
            except Exception as exception:
                exception.add_note(f"in the run {row.key}/{seed}")
                raise
            if not dist.is_initialized() or dist.get_rank() == 0:
                store.add(Run(table.settings(row, task), seed, sizes, machine, values))
                shutil.rmtree(kept(futures[future]), ignore_errors=True)
    finally:
        pool.shutdown(cancel_futures=True)
        folder.cleanup()
    return TableRuns.find(table, task, store)


def _fits(row: Row, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(row.key, pattern) for pattern in patterns)
