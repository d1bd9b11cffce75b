"""Processes beside the one that runs the tests: two that train together over gloo, and Python programs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2

needs_gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")

PROGRAM = """
import pathlib, sys, torch
torch.set_num_threads(1)
from {module} import {function} as work
from tests.processes import leave
work(pathlib.Path(sys.argv[1]))
leave()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address: tuple[str, int] = found.getsockname()
    return address[1]


def leave() -> NoReturn:
    """End this process, once the others are done too, without the interpreter's own end.

    A thread of the group that lets go of a tensor meanwhile would abort the process, and what refers to the group
    and so keeps its threads (FSDP, a wrapped model in a cycle) may stay for good.
    """
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def spawn(work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(rank, *arguments)`` in processes of their own, each a member of one group."""
    mp.spawn(member, (free_port(), work, arguments), nprocs=WORLD)


def member(rank: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    work(rank, *arguments)
    leave()


def launch(work: Callable[[Path], None], folder: Path) -> None:
    """Run ``work(folder)``, a function of a module, in the processes that ``accelerate launch`` starts."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(module=work.__module__, function=work.__name__))
    # --cpu would want MPI to start more than one process.
    options = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(WORLD), "--main_process_port", "0"]
    options += ["--dynamo_backend", "no", "--mixed_precision", "no"]
    run_python(
        ["-m", "accelerate.commands.launch", *options, str(program), str(folder)],
        GLOO_SOCKET_IFNAME="lo",
        ACCELERATE_USE_CPU="true",
    )


def run_python(arguments: list[str], **environment: str) -> None:
    """Run a Python program that can import these tests, and show what it said if it fails."""
    root = str(Path(__file__).parent.parent)
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
