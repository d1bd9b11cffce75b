"""Accuracy against megabytes in federated learning with Flower: Fashion-MNIST, dense and compressed.

    python -m benchmarks.federated    # some minutes for each run; writes JSON, a table and a picture

Clients in processes of their own train on images of their own, and send the state of the model to a server, which
averages the states and tests the average after each round. All budgets have the same images and the same order of
them for each seed. Runs are kept as they finish, and one that was kept is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import shapeshift
from benchmarks.experiments.classification import CLASSIFICATION
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from benchmarks.task import Task
from shapeshift.experiments.data import Images
from shapeshift.experiments.error_plot import label_lines, spread
from shapeshift.extras import new_figure, save_figure

# The learning rate of each budget, as --pilot finds it; "" is the dense model.
BUDGETS = {"": 0.003, "25%": 0.003, "5%": 0.003, "1%": 0.001}
PILOT_RATES = (0.001, 0.003, 0.01)
PILOT_SIZES = {"train": 4000, "validation": 2000}
CLIENTS = 4
SIZES = {"train": 4000, "test": 5000}
ROUNDS = 10
TARGET = 75  # percent


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each budget (default: 3)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each run (default: {ROUNDS})")
    parser.add_argument("--pilot", action="store_true", help="compare learning rates on held-out training images")
    parser.add_argument("--data-dir", type=Path, help="the folder of Fashion-MNIST (default: that of Debian's package)")
    parser.add_argument("--output", type=Path, default=RESULTS / "federated.json", help="the JSON file")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)
    if arguments.pilot:
        for budget, rate in itertools.product(BUDGETS, PILOT_RATES):
            found = measure(budget, rate, 100, PILOT_SIZES, arguments.rounds, arguments.data_dir)
            print(f"{budget or 'dense'}, rate {rate}: {found['rounds'][-1]['accuracy']:.1f}%")
        return
    machine = describe("cpu")
    machine["versions"]["flwr"] = version("flwr")
    settings = {"machine": machine, "clients": CLIENTS, "sizes": SIZES, "rounds": arguments.rounds, "rates": BUDGETS}
    path, results = arguments.output, {}
    if path.exists():
        kept = json.loads(path.read_text())
        if all(kept[key] == value for key, value in settings.items()):
            results = kept["results"]
    # Seed by seed: a run that is stopped early has seen every budget equally often.
    jobs = [(budget, seed) for seed in range(arguments.seeds) for budget in BUDGETS]
    for budget, seed in tqdm(jobs, desc="federated", unit="run"):
        if f"{budget}:{seed}" not in results:
            results[f"{budget}:{seed}"] = measure(
                budget, BUDGETS[budget], seed, SIZES, arguments.rounds, arguments.data_dir
            )
            write_json(path, {**settings, "results": results})
    content = {**settings, "results": results}
    table = render(content)
    path.with_suffix(".md").write_text(table)
    plot(content, path.with_suffix(".png"))
    print(table)


def network(budget: str, seed: int) -> nn.Module:
    """Build two convolutions and two linear layers, compressed if a budget is given."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    return shapeshift.compress(model, budget, seed=seed) if budget else model


def load(task: Task, client: int, clients: int) -> Images:
    """Return the images of one client."""
    torch.set_num_threads(1)
    data, _ = CLASSIFICATION.load(task)
    return Images(data.images[client::clients], data.labels[client::clients], data.num_classes)


def measure(
    budget: str, rate: float, seed: int, sizes: Mapping[str, int], rounds: int, data_dir: Path | None
) -> dict[str, Any]:
    """Train a federation.

    Returns:
        The "parameters" of the model, and of each round the bytes "sent" by a client so far and the test "accuracy" in
        percent.
    """
    # Read when Flower and Ray are imported: neither reports its use to others.
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from flwr.simulation import run_simulation

    from shapeshift.experiments.federated import LocalTraining, Round, client_app, server_app

    task = Task("fashion_mnist", None, {**sizes, "seed": seed}, data_dir=data_dir)
    build, found = partial(network, budget, seed), list[Round]()
    run_simulation(
        server_app(build, CLASSIFICATION.load(task)[1], CLIENTS, rounds, found),
        client_app(build, partial(load, task), LocalTraining(rate, seed=seed)),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}},
    )
    return {"parameters": shapeshift.count_parameters(build()), "rounds": [asdict(each) for each in found]}


def _runs(content: Mapping[str, Any], budget: str) -> list[Any]:
    return [found for key, found in content["results"].items() if key.partition(":")[0] == budget]


def render(content: Mapping[str, Any]) -> str:
    """Make the table of a result."""
    lines, shown = [], sorted({1, content["rounds"] // 2, content["rounds"]} - {0})
    for budget in content["rates"]:
        runs = _runs(content, budget)
        accuracies = [[run["rounds"][turn - 1]["accuracy"] for run in runs] for turn in shown]
        lines.append(
            [
                budget or "dense",
                f"{runs[0]['parameters']:,}",
                f"{runs[0]['rounds'][0]['sent'] / 1e6:.3f}",
                *(f"{statistics.mean(values):.1f} ± {spread(values):.1f}" for values in accuracies),
                _megabytes_until(TARGET, runs),
            ]
        )
    header = ["budget", "parameters", "MB a round", *(f"accuracy after {turn}, %" for turn in shown)]
    header += [f"MB until {TARGET}%"]
    machine, sizes = content["machine"], content["sizes"]
    return (
        f"{made_by('federated', machine)}, Flower {machine['versions']['flwr']}: {content['clients']} clients with "
        f"{sizes['train'] // content['clients']:,} images of Fashion-MNIST each, {content['rounds']} rounds of one "
        f"pass over them, {sizes['test']:,} test images, {len(_runs(content, ''))} seeds. "
        "Megabytes are those that one client sends; it receives as many.\n\n"
        f"{markdown_table(header, lines)}\n"
    )


def _megabytes_until(accuracy: float, runs: Sequence[Any]) -> str:
    """Return what a client sends until the mean over seeds has reached an accuracy, or that it does not."""
    for rounds in zip(*(run["rounds"] for run in runs), strict=True):
        if statistics.mean(each["accuracy"] for each in rounds) >= accuracy:
            return f"{rounds[0]['sent'] / 1e6:.2f}"
    return "not reached"


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the mean accuracy over seeds against the megabytes that a client has sent."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for budget in content["rates"]:
        rounds = list(zip(*(run["rounds"] for run in _runs(content, budget)), strict=True))
        accuracies = [[each["accuracy"] for each in seeds] for seeds in rounds]
        sent = [seeds[0]["sent"] / 1e6 for seeds in rounds]
        means, spreads = [statistics.mean(each) for each in accuracies], [spread(each) for each in accuracies]
        axes.errorbar(sent, means, spreads, marker="o", markersize=4, capsize=2, label=budget or "dense")
    axes.set(xscale="log", xlabel="MB sent by a client", ylabel="test accuracy, %", title="Federated Fashion-MNIST")
    axes.grid(alpha=0.3)
    label_lines(axes)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
