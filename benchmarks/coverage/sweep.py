"""Checking many models, each in a process of its own with a limit on its time and memory."""

from __future__ import annotations

import fnmatch
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.coverage.check import BUDGET, UNFINISHED, check
from benchmarks.machine import describe
from benchmarks.results import write_json

LIBRARIES = ("timm", "transformers")


@dataclass(frozen=True)
class Limits:
    """The limits on one model.

    Attributes:
        seconds: The processor time in seconds. On the clock, a model may take ten times as long.
        gigabytes: The memory in gigabytes.
    """

    seconds: float
    gigabytes: float


def names(library: str) -> list[str]:
    """Return all models of a library."""
    found: list[str] = _models(library).names()
    return found


def sweep(
    library: str,
    path: Path,
    limits: Limits,
    processes: int = 1,
    models: Sequence[str] = ("*",),
    again: Sequence[str] = (),
) -> dict[str, Any]:
    """Check the models of a library that a file does not have yet, and write each result as it is there.

    Args:
        library: "timm" or "transformers".
        path: The JSON file. Its results of other versions are dropped.
        limits: The limits on each model.
        processes: The number of models that are checked at once.
        models: Names or shell patterns of the models to check.
        again: Names or shell patterns of the models to check again.

    Returns:
        The content of the file: "library", "budget", "machine", the number of "names", and as "models" the results of
        ``check`` by name.
    """
    listed = names(library)
    content: dict[str, Any] = {
        "library": library,
        "budget": BUDGET,
        "machine": describe("cpu"),
        "names": len(listed),
        "models": {},
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["budget"] == BUDGET and kept["machine"]["versions"] == content["machine"]["versions"]:
            content["models"] = {name: found for name, found in kept["models"].items() if not _fits(name, again)}
    # In mixed order: a sweep that is stopped early has seen a sample, and not the first letters.
    random.Random(0).shuffle(listed)
    wanted = [name for name in listed if _fits(name, models) and name not in content["models"]]
    pool = ThreadPoolExecutor(processes)
    try:
        checks = {pool.submit(check_apart, library, name, limits): name for name in wanted}
        for finished in tqdm(as_completed(checks), desc=library, total=len(checks)):
            content["models"][checks[finished]] = finished.result()
            write_json(path, {**content, "models": dict(sorted(content["models"].items()))})
    finally:
        pool.shutdown(cancel_futures=True)
    return content


def check_apart(library: str, name: str, limits: Limits) -> dict[str, Any]:
    """Check one model in a process of its own, which may crash, hang or run out of memory.

    Returns:
        The result of ``check``, and the "seconds" of processor time that it took.
    """
    context = multiprocessing.get_context("forkserver")
    # What takes long to import is imported once, in the process that the others are forked from.
    context.set_forkserver_preload([__name__, *map(_module, LIBRARIES)])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_check, args=(library, name, limits, sender))
    process.start()
    sender.close()
    found: dict[str, Any] = {"outcome": "not run", "reason": UNFINISHED, "seconds": limits.seconds}
    with receiver, suppress(EOFError):  # which is the end of the process
        while receiver.poll(10 * limits.seconds):
            found = receiver.recv()
        process.kill()
    process.join()
    if found.get("reason") == UNFINISHED:
        killed = process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU)
        limit = f"takes more than {limits.seconds:g} seconds or {limits.gigabytes:g} GiB"
        found["reason"] = limit if killed else f"the process ends with {process.exitcode}"
    return found


def _check(library: str, name: str, limits: Limits, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for kind, most in (
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_DATA, limits.gigabytes * 2**30),
    ):
        resource.setrlimit(kind, (math.ceil(most), resource.getrlimit(kind)[1]))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    for found in check(_models(library).attempts(name)):
        sender.send({**found, "seconds": round(time.process_time(), 1)})


def _models(library: str) -> Any:
    return import_module(_module(library))


def _module(library: str) -> str:
    return f"benchmarks.coverage.{library}_models"


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
