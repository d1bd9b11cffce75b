"""Many trainings, kept as they finish."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

import shapeshift
from benchmarks.comparison import Comparison, Row
from benchmarks.machine import describe
from benchmarks.networks import Training
from benchmarks.results import Results
from benchmarks.task import Task
from shapeshift.integrations.training import error, train


def train_and_test(row: Row, task: Task, seed: int) -> dict[str, Any]:
    """Train the network of a row, and return its number of parameters and its test error in percent."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data, test = task.load()
    training = Training(data, task.recipe, seed, task.device)
    model = row.build(row.network, row.budget, training, **row.options).to(task.device)
    distiller = row.distillation and row.distillation.start(model, training)
    train(model, data, replace(task.recipe, **row.recipe), seed, distiller=distiller)
    return {"parameters": shapeshift.count_parameters(model), "error": error(model, test)}


def run(
    comparison: Comparison,
    task: Task,
    seeds: int,
    processes: int,
    path: Path,
    rows: Sequence[str] = ("*",),
    again: Sequence[str] = (),
    others: Mapping[Path, Comparison] = MappingProxyType({}),
) -> Results:
    """Train the rows of a comparison over seeds, and keep each run in a file as soon as it is finished.

    Runs that the file holds already are not repeated, unless they were made under other settings: then they are left
    out.

    Args:
        comparison: what to train.
        task: what to train it on.
        seeds: runs of each row, of the seeds 0, 1, 2 and so on.
        processes: how many trainings at once, each on one thread.
        path: the JSON file.
        rows: shell patterns of the rows to train.
        again: shell patterns of the rows whose runs in the file are repeated.
        others: comparisons whose files hold runs that may be the same ones.

    Returns:
        All runs.
    """
    torch.set_num_threads(1)
    task = comparison.adapt(task)
    settings = {**task.settings(), "config": shapeshift.Config().to_dict(), "machine": describe(task.device)}
    results = Results.resume(path, settings, comparison.rows)
    results.drop(again)
    for other, compared in others.items():
        if other != path and other.exists() and not again:
            results.borrow(other, compared.rows, comparison.rows)
    # Seed by seed: a comparison that is stopped early has seen every row equally often.
    chosen = [row for row in comparison.rows if any(fnmatchcase(row.key, pattern) for pattern in rows)]
    jobs = {f"{row.key}/{seed}": (row, task, seed) for seed in range(seeds) for row in chosen}
    missing = {key: job for key, job in jobs.items() if key not in results.runs}
    # CUDA does not work in a forked process.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(train_and_test, *job): key for key, job in missing.items()}
        done = len(jobs) - len(missing)
        for future in tqdm(as_completed(futures), comparison.name, len(jobs), initial=done, unit="run"):
            key = futures[future]
            try:
                results.runs[key] = future.result()
            except Exception as exception:
                exception.add_note(f"in the run {key}")
                raise
            results.write(path)
    finally:
        pool.shutdown(cancel_futures=True)
    results.write(path)  # also where every run was taken over
    return results
