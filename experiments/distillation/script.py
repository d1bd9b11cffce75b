"""What the distillation scripts have in common: a student that is trained alone, and with each method."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import shapeshift
from shapeshift.distill import DISTILLERS, Distiller
from shapeshift.extras import progress_bar


class Train(Protocol):
    """Trains a network, and returns what of it is used: the network itself, or an average of its weights."""

    def __call__(self, model: nn.Module, distiller: Distiller | None, on_epoch: Callable[[], None]) -> nn.Module: ...


@dataclass(frozen=True)
class Row:
    """One trained network.

    Attributes:
        network: what it is called in the table.
        parameters: trainable numbers.
        error: on the test set, in percent.
        seconds: of training.
    """

    network: str
    parameters: int
    error: float
    seconds: float


def make_parser(module: str, description: str | None, epochs: int, methods: Sequence[str]) -> argparse.ArgumentParser:
    """Make a parser with the options that every script has.

    Args:
        module: of the script.
        description: what the script does.
        epochs: the default.
        methods: the default.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--method", nargs="+", choices=list(DISTILLERS), default=list(methods), help="how to distil")
    parser.add_argument("--budget", help="compress the student to this budget, such as 50%% or 4x")
    parser.add_argument("--epochs", type=int, default=epochs, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="of the networks and the order of the data")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    return parser


def compare(
    title: str,
    arguments: argparse.Namespace,
    build_teacher: Callable[[], nn.Module],
    build_student: Callable[[], nn.Module],
    train: Train,
    error: Callable[[nn.Module], float],
) -> list[Row]:
    """Train a teacher, a student alone and the same student with each method, and print a table of them.

    Args:
        title: of the table.
        arguments: the options that :func:`make_parser` adds.
        build_teacher: makes the teacher; the seed is set before.
        build_student: makes the student; the seed is set before, so that all students start alike.
        train: trains either.
        error: on the test set, in percent.

    Returns:
        The rows of the table.
    """
    rows: list[Row] = []
    methods = (None, *arguments.method)
    with progress_bar(total=(1 + len(methods)) * arguments.epochs, unit="epoch") as bar:

        def run(name: str, model: nn.Module, distiller: Distiller | None) -> nn.Module:
            bar.set_description(name)
            begin = time.perf_counter()
            trained = train(model, distiller, bar.update)
            seconds = time.perf_counter() - begin
            rows.append(Row(name, shapeshift.count_parameters(model), error(trained), seconds))
            return trained

        torch.manual_seed(arguments.seed)
        teacher = run("teacher", build_teacher().to(arguments.device), None)
        for method in methods:
            torch.manual_seed(arguments.seed + 1)
            student = build_student()
            if arguments.budget is not None:
                shapeshift.compress(student, arguments.budget)
            student.to(arguments.device)
            name = " ".join(["student", *([arguments.budget] if arguments.budget else [])])
            if method is None:
                run(f"{name} alone", student, None)
            else:
                with DISTILLERS[method](teacher, student) as distiller:
                    run(f"{name} + {method}", student, distiller)
    Console().print(_table(title, rows))
    return rows


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title)
    table.add_column("network")
    for column in ("parameters", "test error, %", "training, s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.network, f"{row.parameters:,}", f"{row.error:.2f}", f"{row.seconds:.1f}")
    return table
