"""The common part of the distillation scripts: train a student alone and with each method, and compare."""

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
    """Trains a network, and returns the network to test: itself, or an average of its weights."""

    def __call__(self, model: nn.Module, distiller: Distiller | None, on_epoch: Callable[[], None]) -> nn.Module: ...


@dataclass(frozen=True)
class Row:
    """One trained network.

    Attributes:
        network: The name of the network in the table.
        parameters: The number of trainable parameters.
        error: The error on the test set in percent.
        seconds: The time of training in seconds.
    """

    network: str
    parameters: int
    error: float
    seconds: float


def make_parser(module: str, description: str | None, epochs: int, methods: Sequence[str]) -> argparse.ArgumentParser:
    """Make a parser with the options that every script has.

    Args:
        module: The module of the script.
        description: A description of the script.
        epochs: The default number of epochs.
        methods: The default distillation methods.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--method", nargs="+", choices=list(DISTILLERS), default=list(methods), help="methods of distillation"
    )
    parser.add_argument("--budget", help="compress the student to this budget, such as 50%% or 4x")
    parser.add_argument("--epochs", type=int, default=epochs, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the networks and of the order of the data")
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
        title: The title of the table.
        arguments: The parsed options of :func:`make_parser`.
        build_teacher: A function that makes the teacher. The seed is set before.
        build_student: A function that makes the student. The seed is set before, so all students start with the same
            weights.
        train: A function that trains the teacher or a student.
        error: A function from a network to its error on the test set in percent.

    Returns:
        The rows of the table.
    """
    rows: list[Row] = []
    methods = (None, *arguments.method)
    with progress_bar(total=(1 + len(methods)) * arguments.epochs, unit="epoch") as bar:

        def run(name: str, model: nn.Module, distiller: Distiller | None) -> nn.Module:
            bar.set_description(name)
            start = time.perf_counter()
            trained = train(model, distiller, bar.update)
            seconds = time.perf_counter() - start
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
