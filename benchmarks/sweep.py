"""Many trainings, kept as they finish: what the accuracy benchmarks share."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe
from benchmarks.tables import RESULTS, markdown_table, write_json
from shapeshift.integrations.data.digits import digits
from shapeshift.integrations.error_plot import plot_errors, spread
from shapeshift.integrations.training import Recipe, error, train
from shapeshift.networks.wide_resnet import WideResNet

NETWORKS = {
    "WRN-16-1": partial(WideResNet, 16, 1, in_channels=1),
    "WRN-16-0.25": partial(WideResNet, 16, 0.25, in_channels=1, stem=8),
}

RECIPE = Recipe()


class Build(Protocol):
    """Makes the network of one row; a function that another process can import."""

    def __call__(self) -> torch.nn.Module: ...


@dataclass(frozen=True)
class Row:
    """One row of a table: a network, how it is made, and at which budget.

    Attributes:
        network: a name in ``NETWORKS``.
        method: what the table calls it.
        budget: as the user writes it; empty for the dense network.
        build: makes the network.
        recipe: how it is trained.
    """

    network: str
    method: str
    budget: str
    build: Build
    recipe: Recipe = RECIPE

    @property
    def key(self) -> str:
        return f"{self.network}/{self.method}/{self.budget}"


def train_and_test(row: Row, seed: int) -> dict[str, Any]:
    """Train the network of a row on digits, and return its size and its test error in percent."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = row.build()
    training, test = digits()
    train(model, training, row.recipe, seed)
    return {"parameters": shapeshift.count_parameters(model), "error": error(model, test)}


def run(name: str, description: str, rows: Sequence[Row]) -> None:
    """Run a benchmark from the command line: train all rows over seeds, write JSON, table and plot.

    Runs that the JSON holds already, under the same recipe and default config, are not repeated.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")
    arguments = parser.parse_args()
    settings = {"recipe": asdict(RECIPE), "config": shapeshift.Config().to_dict(), "machine": describe("cpu")}
    runs: dict[str, dict[str, Any]] = {}
    if arguments.output.exists():
        kept = json.loads(arguments.output.read_text())
        if all(kept[key] == settings[key] for key in ("recipe", "config")):
            runs = kept["runs"]
    # Seed by seed: a sweep that is stopped early has compared every row equally often.
    jobs = {f"{row.key}/{seed}": (row, seed) for seed in range(arguments.seeds) for row in rows}
    with ProcessPoolExecutor(arguments.processes) as pool:
        futures = {pool.submit(train_and_test, *job): key for key, job in jobs.items() if key not in runs}
        for future in tqdm(as_completed(futures), total=len(futures), desc=name):
            runs[futures[future]] = future.result()
            write_json(arguments.output, {**settings, "runs": dict(sorted(runs.items()))})
    table = render(name, rows, runs)
    arguments.output.with_suffix(".md").write_text(table)
    plot(rows, runs, arguments.output.with_suffix(".png"))
    print(table)


def render(name: str, rows: Sequence[Row], runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Make the table of a benchmark from its runs."""
    lines = []
    for row in rows:
        parameters, errors = _errors(row, runs)
        score = f"{statistics.mean(errors):.2f} ± {spread(errors):.2f}"
        lines.append([row.network, row.method, row.budget, f"{parameters:,}", score, str(len(errors))])
    header = ["network", "method", "budget", "parameters", "test error, %", "seeds"]
    return (
        f"Made by `python -m benchmarks.{name}` on digits: mean and standard deviation over seeds, "
        f"one recipe for all rows unless the row says otherwise.\n\n{markdown_table(header, lines)}\n"
    )


def plot(rows: Sequence[Row], runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw test error against parameters, a line for each method on each network."""
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    for row in rows:
        lines.setdefault(f"{row.network}, {row.method}", []).append(_errors(row, runs))
    plot_errors(lines, "Digits", path)


def _errors(row: Row, runs: Mapping[str, Mapping[str, Any]]) -> tuple[int, list[float]]:
    found = [result for key, result in runs.items() if key.rpartition("/")[0] == row.key]
    return found[0]["parameters"], [result["error"] for result in found]
