"""The training of a table's rows: a run is kept once it is finished, and its state after each epoch until then."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
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


@dataclass(frozen=True)
class Job:
    """A run that is to be made, by whichever worker comes first.

    Attributes:
        folder: The folder of the runs. Workers on several machines share it.
        settings: Everything that determines the run, except for the seed.
        sizes: The sizes of the data.
        machine: The machine that would make it.
        experiment: The experiment.
        row: The row.
        task: The task.
        seed: The seed.
    """

    folder: Path
    settings: dict[str, Any]
    sizes: dict[str, Any]
    machine: dict[str, Any]
    experiment: Experiment
    row: Row
    task: Task
    seed: int

    @property
    def name(self) -> str:
        """The name of the run."""
        return run_name(self.settings, self.seed)

    def run(self) -> Run | None:
        """Make the run, from where a killed worker left it, and write it. None means that another worker is at it."""
        if dist.is_initialized():  # the processes of a group make each run together
            return self._make(writes=dist.get_rank() == 0)
        self._unfinished.mkdir(parents=True, exist_ok=True)
        with (self._unfinished / "lock").open("w") as lock:  # the system opens it when a worker dies
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            made = self.folder / f"{self.name}.json"
            if made.exists() and (run := Run.read(made)).sizes == self.sizes:
                shutil.rmtree(self._unfinished, ignore_errors=True)
                return run
            return self._make(writes=True)

    @property
    def _unfinished(self) -> Path:
        return self.folder.parent / "unfinished" / self.name

    def _make(self, writes: bool) -> Run:
        keep_in(self._unfinished)
        try:
            values = measure(self.experiment, self.row, self.task, self.seed)
        finally:
            keep_in(None)
        run = Run(self.settings, self.seed, self.sizes, self.machine, values)
        if writes:
            run.write(self.folder)
            shutil.rmtree(self._unfinished, ignore_errors=True)
        return run


def _start_worker(folder: Path, places: Any) -> None:
    """Let a process share pretrained networks with the others, and give it a GPU of its own where there are several."""
    share_in(folder)
    if torch.cuda.is_available():
        torch.cuda.set_device(places.get() % torch.cuda.device_count())


def _results(jobs: Sequence[Job], processes: int) -> Generator[tuple[Job, Callable[[], Run | None]], None, None]:
    """Yield jobs with a function that returns their runs, as they finish in a pool of processes.

    A process of a group takes part in all jobs, one after the other.
    """
    if dist.is_initialized():
        yield from ((job, job.run) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not work in a forked process
    places = context.SimpleQueue()
    for place in range(processes):
        places.put(place)
    with TemporaryDirectory() as shared:
        pool = ProcessPoolExecutor(processes, context, _start_worker, (Path(shared), places))
        try:
            futures = {pool.submit(job.run): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result
        finally:
            pool.shutdown(cancel_futures=True)


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
    jobs = [
        Job(store.folder, table.settings(row, task), sizes, machine, table.experiment, row, task, seed)
        for seed in range(seeds)
        for row in table.rows
        if _fits(row, rows)
    ]
    # A folder of images may hold other ones than it did: then the sizes of the data have changed.
    missing = [job for job in jobs if job.name not in store.runs or store.runs[job.name].sizes != sizes]
    bar = partial(tqdm, desc=table.name, total=len(jobs), initial=len(jobs) - len(missing), unit="run")
    with closing(_results(missing, processes)) as results:
        for job, result in bar(results):
            try:
                made = result()
            except Exception as exception:
                exception.add_note(f"in the run {job.row.key}/{job.seed}")
                raise
            if made is None:
                tqdm.write(f"{job.row.key}/{job.seed} is being trained by another worker")
            else:
                store.know(made)
    return TableRuns.find(table, task, store)


def _fits(row: Row, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(row.key, pattern) for pattern in patterns)
