"""Compare a dense, a thinner and a compressed wide residual network on handwritten digits."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import shapeshift
from shapeshift.budget import count_parameters, parse_budget
from shapeshift.experiments.data import Images
from shapeshift.experiments.data.digits import digits
from shapeshift.experiments.error_plot import plot_errors, spread
from shapeshift.experiments.training import Recipe, error, predict, train
from shapeshift.extras import progress_bar
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import WideResNet, thin_wide_resnet

DEPTH = 16


@dataclass(frozen=True)
class Result:
    """One trained network.

    Attributes:
        method: "dense", "reduced" or "compressed".
        budget: The budget as the user wrote it; empty for the dense network.
        parameters: The number of trainable parameters.
        error: The error on the test set in percent.
        seconds: The time of training in seconds.
        checkpoint_bytes: The size of the checkpoint in bytes.
    """

    method: str
    budget: str
    parameters: int
    error: float
    seconds: float
    checkpoint_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print the table, save the plot and the checkpoints, and check that the checkpoints predict the same."""
    parser = argparse.ArgumentParser(prog="shapeshift demo", description=__doc__)
    parser.add_argument("--budgets", nargs="+", default=["6k", "12k"], help="parameter budgets (default: 6k 12k)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network (default: 3)")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help=f"default: {Recipe.epochs}")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, on one thread each (default: 2)")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    arguments = parser.parse_args(argv)

    console = Console()
    methods = [
        ("dense", ""),
        *((method, budget) for budget in arguments.budgets for method in ("reduced", "compressed")),
    ]
    for each in methods:
        _build(*each)  # fails here, before any training, if a budget is wrong
    jobs = [(*each, seed, arguments.epochs, arguments.output) for each in methods for seed in range(arguments.seeds)]
    # Networks this small gain little from a second thread.
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        runs = pool.map(_run, *zip(*jobs, strict=True))
        results = list(progress_bar(iterable=runs, total=len(jobs), desc="training", unit="network"))
    console.print("Compressed and materialized checkpoints reloaded, equal predictions")
    table = _table(results)
    console.print(table)
    # The table for a document, which has a title and a caption of its own.
    table.box, table.title, table.caption = box.MARKDOWN, None, None
    with (arguments.output / "table.md").open("w", encoding="utf-8") as file:
        Console(file=file, width=100).print(table)
    results_file = arguments.output / "results.json"
    results_file.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    plot = arguments.output / "error_against_parameters.png"
    _plot(results, plot)
    console.print(f"Saved {plot}, table.md, results.json and a checkpoint of each network in {arguments.output}.")
    return 0


def _run(method: str, budget: str, seed: int, epochs: int, output: Path) -> Result:
    """Train a network, save it to its own folder, and measure it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    training, test = digits()
    model = _build(method, budget)
    start = time.perf_counter()
    train(model, training, Recipe(epochs=epochs), seed)
    seconds = time.perf_counter() - start
    parameters, wrong = count_parameters(model), error(model, test)
    folder = output / f"{method}{budget and '-'}{budget}" / f"seed-{seed}"
    size = _save(model, folder)
    if method == "compressed":
        _check_checkpoints(model, folder, test)
    return Result(method, budget, parameters, wrong, seconds, size)


def _build(method: str, budget: str) -> nn.Module:
    dense = WideResNet(DEPTH, 1, in_channels=1)
    if method == "reduced":
        thinner = partial(thin_wide_resnet, depth=DEPTH, in_channels=1)
        return reduce_width(thinner, parse_budget(budget, count_parameters(dense)))
    return shapeshift.compress(dense, budget) if method == "compressed" else dense


def _save(model: nn.Module, folder: Path) -> int:
    """Save a network and return the size of its checkpoint in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    if shapeshift.is_compressed(model):
        shapeshift.save(model, folder)
        return sum(file.stat().st_size for file in folder.glob("*") if "materialized" not in file.name)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


def _check_checkpoints(model: nn.Module, folder: Path, test: Images) -> None:
    """Reload a compressed network and its materialized copy, and check that both predict the same as the network."""
    expected = predict(model, test)
    reloaded = shapeshift.load(folder, _build("dense", ""))
    plain_file = folder / "materialized.safetensors"
    safetensors.torch.save_file(shapeshift.materialize(model).state_dict(), plain_file)
    plain = _build("dense", "")
    plain.load_state_dict(safetensors.torch.load_file(plain_file))
    for name, candidate in (("compressed", reloaded), ("materialized", plain)):
        if not torch.equal(predict(candidate, test), expected):
            raise RuntimeError(f"the {name} checkpoint in {folder} does not predict what the trained network does")


def _summaries(results: Sequence[Result]) -> list[tuple[str, str, list[Result]]]:
    keys = dict.fromkeys((result.method, result.budget) for result in results)
    return [(*key, [result for result in results if (result.method, result.budget) == key]) for key in keys]


def _table(results: Sequence[Result]) -> Table:
    table = Table(title=f"Test error on digits, WRN-{DEPTH}-1", caption="mean and standard deviation over seeds")
    table.add_column("network")
    for column in ("parameters", "test error, %", "checkpoint, kB", "training, s"):
        table.add_column(column, justify="right")
    for method, budget, runs in _summaries(results):
        errors = [run.error for run in runs]
        table.add_row(
            f"{method} {budget}",
            f"{runs[0].parameters:,}",
            f"{statistics.mean(errors):.2f} ± {spread(errors):.2f}",
            f"{runs[0].checkpoint_bytes / 1e3:,.1f}",
            f"{statistics.mean(run.seconds for run in runs):.1f}",
        )
    return table


def _plot(results: Sequence[Result], path: Path) -> None:
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    for method, _, runs in _summaries(results):
        lines.setdefault(method, []).append((runs[0].parameters, [run.error for run in runs]))
    plot_errors(lines, f"WRN-{DEPTH}-1 on digits", path)


if __name__ == "__main__":
    raise SystemExit(main())
