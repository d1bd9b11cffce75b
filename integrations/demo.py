"""The main job on real data: a wide residual network on handwritten digits, dense, thinner, and compressed."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import shapeshift
from shapeshift.budget import count_parameters, parse_budget
from shapeshift.integrations.data import Images
from shapeshift.integrations.data.digits import digits
from shapeshift.integrations.error_plot import plot_errors, spread
from shapeshift.integrations.training import Recipe, error, predict, train
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import WideResNet, thin_wide_resnet

DEPTH = 16


@dataclass(frozen=True)
class Result:
    """One trained network.

    Attributes:
        method: "dense", "reduced" or "compressed".
        budget: what was asked for, as the user wrote it; empty for the dense network.
        parameters: trainable numbers.
        error: on the test set, in percent.
        seconds: of training.
        checkpoint_bytes: on disk.
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
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    arguments = parser.parse_args(argv)

    console = Console()
    recipe = Recipe(epochs=arguments.epochs)
    training, test = digits()
    contenders = _contenders(arguments.budgets)
    results: list[Result] = []
    columns = TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("epochs", total=len(contenders) * arguments.seeds * recipe.epochs)
        for (method, budget), build in contenders.items():
            for seed in range(arguments.seeds):
                progress.update(whole, description=f"{method} {budget}")
                torch.manual_seed(seed)
                model = build()
                begin = time.perf_counter()
                train(model, training, recipe, seed, on_epoch=lambda: progress.advance(whole))
                seconds = time.perf_counter() - begin
                folder = arguments.output / f"{method}{budget and '-'}{budget}"
                size = _save(model, folder)
                results.append(Result(method, budget, count_parameters(model), error(model, test), seconds, size))
            if method == "compressed":
                _check_checkpoints(model, folder, test)
                console.print(f"{folder}: compressed and materialized checkpoints reloaded, equal predictions")
    table = _table(results)
    console.print(table)
    # The same for a document; the title and the caption are the document's.
    table.box, table.title, table.caption = box.MARKDOWN, None, None
    with (arguments.output / "table.md").open("w", encoding="utf-8") as file:
        Console(file=file, width=100).print(table)
    results_file = arguments.output / "results.json"
    results_file.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    plot = arguments.output / "error_against_parameters.png"
    _plot(results, plot)
    console.print(f"Saved {plot}, table.md, results.json and a checkpoint of each network in {arguments.output}.")
    return 0


def _contenders(budgets: Sequence[str]) -> dict[tuple[str, str], Callable[[], nn.Module]]:
    dense = count_parameters(_dense())
    contenders: dict[tuple[str, str], Callable[[], nn.Module]] = {("dense", ""): _dense}
    for budget in budgets:
        thinner = partial(thin_wide_resnet, depth=DEPTH, in_channels=1)
        contenders["reduced", budget] = partial(reduce_width, thinner, parse_budget(budget, dense))
        contenders["compressed", budget] = partial(_compressed, budget)
    return contenders


def _dense() -> nn.Module:
    return WideResNet(DEPTH, 1, in_channels=1)


def _compressed(budget: str) -> nn.Module:
    return shapeshift.compress(_dense(), budget)


def _save(model: nn.Module, folder: Path) -> int:
    """Save a network and return the size of its checkpoint in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    if shapeshift.is_compressed(model):
        shapeshift.save(model, folder)
        return sum(file.stat().st_size for file in folder.glob("*") if "materialized" not in file.name)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


def _check_checkpoints(model: nn.Module, folder: Path, test: Images) -> None:
    """Reload a compressed network, and the plain one made of it, and compare their predictions with its own."""
    expected = predict(model, test)
    reloaded = shapeshift.load(folder, _dense())
    plain_file = folder / "materialized.safetensors"
    safetensors.torch.save_file(shapeshift.materialize(model).state_dict(), plain_file)
    plain = _dense()
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
