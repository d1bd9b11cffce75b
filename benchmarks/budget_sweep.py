"""Test error against the parameter budget on digits: ``python -m benchmarks.budget_sweep``.

WRN-16-1 at budgets below its own size against the thinner network of that size, and both WRN-16-1 and the thin
WRN-16-0.25 at 100% and above; the same recipe for all. Finished runs are kept and skipped when the command is repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe
from benchmarks.tables import RESULTS, markdown_table, write_json
from shapeshift.integrations.digits import digits
from shapeshift.integrations.training import Recipe, error, train
from shapeshift.networks.reduced import reduce_width
from shapeshift.networks.wide_resnet import WideResNet, thin_wide_resnet

LOW, HIGH = ("6k", "12k", "25k", "50k"), ("100%", "200%", "400%")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "WRN-16-1": partial(WideResNet, 16, 1, in_channels=1),
    "WRN-16-0.25": partial(WideResNet, 16, 0.25, in_channels=1, stem=8),
}
Row = tuple[str, str, str]


def rows() -> list[Row]:
    """List what is compared, as (network, method, budget)."""
    low = [("WRN-16-1", method, budget) for budget in LOW for method in ("reduced", "compressed")]
    high = [(name, "compressed", budget) for name in NETWORKS for budget in HIGH]
    return [*low, *((name, "dense", "") for name in NETWORKS), *high]


def run(row: Row, seed: int, recipe: Recipe) -> dict[str, Any]:
    """Train one network and return its size and test error."""
    torch.set_num_threads(1)
    name, method, budget = row
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    if method == "reduced":
        size = shapeshift.parse_budget(budget, shapeshift.count_parameters(model))
        model = reduce_width(partial(thin_wide_resnet, depth=16, in_channels=1), size)
    elif method == "compressed":
        shapeshift.compress(model, budget)
    training, test = digits()
    train(model, training, recipe, seed)
    return {"parameters": shapeshift.count_parameters(model), "error": error(model, test)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_sweep", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "budget_sweep.json")
    arguments = parser.parse_args()
    recipe = Recipe()
    settings = {"recipe": asdict(recipe), "config": shapeshift.Config().to_dict(), "machine": describe("cpu")}
    runs: dict[str, Any] = {}
    if arguments.output.exists():
        kept = json.loads(arguments.output.read_text())
        if all(kept[key] == settings[key] for key in ("recipe", "config")):
            runs = kept["runs"]
    jobs = {f"{'/'.join(row)}/{seed}": (row, seed) for seed in range(arguments.seeds) for row in rows()}
    with ProcessPoolExecutor(arguments.processes) as pool:
        futures = {pool.submit(run, *job, recipe): key for key, job in jobs.items() if key not in runs}
        for future in tqdm(as_completed(futures), total=len(futures), desc="budget sweep"):
            runs[futures[future]] = future.result()
            write_json(arguments.output, {**settings, "runs": dict(sorted(runs.items()))})
    table = render({**settings, "runs": runs})
    arguments.output.with_suffix(".md").write_text(table)
    plot(runs, arguments.output.with_suffix(".png"))
    print(table)


def _errors(runs: dict[str, Any], row: Row) -> tuple[int, list[float]]:
    found = [result for key, result in runs.items() if key.rpartition("/")[0] == "/".join(row)]
    return found[0]["parameters"], [result["error"] for result in found]


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    lines = []
    for row in rows():
        parameters, errors = _errors(content["runs"], row)
        mean, spread = statistics.mean(errors), statistics.stdev(errors) if len(errors) > 1 else 0.0
        lines.append([*row, f"{parameters:,}", f"{mean:.2f} ± {spread:.2f}", str(len(errors))])
    header = ["network", "method", "budget", "parameters", "test error, %", "seeds"]
    return (
        f"Made by `python -m benchmarks.budget_sweep` (mean and standard deviation over seeds; "
        f"{content['recipe']['epochs']} epochs, the same recipe for every row).\n\n{markdown_table(header, lines)}\n"
    )


def plot(runs: dict[str, Any], path: Path) -> None:
    """Draw test error against parameters."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in NETWORKS:
        for method, marker in (("reduced", "o"), ("compressed", "D"), ("dense", "s")):
            points = [_errors(runs, row) for row in rows() if row[:2] == (name, method)]
            if points:
                means = [statistics.mean(errors) for _, errors in points]
                spreads = [statistics.stdev(errors) if len(errors) > 1 else 0.0 for _, errors in points]
                sizes = [parameters for parameters, _ in points]
                axes.errorbar(sizes, means, spreads, marker=marker, capsize=3, label=f"{name}, {method}")
    axes.set(xscale="log", xlabel="trainable parameters", ylabel="test error on digits, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
