"""Soft sharing and folding: the layers that come to share in training, and the cost of making loops of them.

    python -m benchmarks.folding    # three minutes on a core that is free; writes JSON, a table and pictures

A wide residual network on the digits is trained with its own weights, with two templates for each group of layers
(SWRN-28-0.5-2), and the same with the recurrence regulariser. The shared ones are folded and trained on for a few
epochs. The pictures show the first network with the regulariser: its similarity matrices, how they changed in training,
and the graph of the folded network.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from shapeshift.experiments.data import Images
from shapeshift.experiments.data.digits import digits
from shapeshift.experiments.error_plot import spread
from shapeshift.experiments.training import Recipe, error, train
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import SimilarityRecorder, fold, plot_similarity, regulariser, similarity, soft_share

DEPTH, WIDTH, TEMPLATES = 28, 0.5, 2
THRESHOLD = 0.95
# Of the epochs, and of the peak learning rate: how the folded network is trained on.
TUNED_EPOCHS, TUNED_RATE = 0.25, 0.2


class Sharing(nn.Module):
    """The recurrence regulariser as a loss beside the model's own.

    Args:
        model: The model whose layers are compared. It does not become a submodule.
        weight: The weight of the loss.
    """

    def __init__(self, model: nn.Module, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.model = [model]

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return regulariser(self.model[0], self.weight)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folding", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind (default: 3)")
    parser.add_argument("--epochs", type=int, default=20, help="default: 20")
    parser.add_argument("--weight", type=float, default=0.3, help="of the regulariser (default: 0.3)")
    parser.add_argument("--output", type=Path, default=RESULTS / "folding_digits_cpu.json")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)
    recipe = Recipe(epochs=arguments.epochs)
    data = digits()
    kinds: dict[str, float | None] = {"own weights": None, "soft sharing": 0.0, "regularised": arguments.weight}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    jobs = [(kind, seed) for seed in range(arguments.seeds) for kind in kinds]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for kind, seed in tqdm(jobs, desc="networks"):
        pictures = arguments.output.with_suffix("") if kind == "regularised" and seed == 0 else None
        runs[kind].append(measure(kinds[kind], data, recipe, seed, pictures))
    content = {
        "machine": describe("cpu"),
        "recipe": dataclasses.asdict(recipe),
        "tuning": dataclasses.asdict(tuned(recipe)),
        "network": f"WRN-{DEPTH}-{WIDTH:g}",
        "templates": TEMPLATES,
        "threshold": THRESHOLD,
        "weight": arguments.weight,
        "runs": runs,
    }
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def tuned(recipe: Recipe) -> Recipe:
    """Return how a folded network is trained on."""
    epochs = max(1, round(TUNED_EPOCHS * recipe.epochs))
    return dataclasses.replace(recipe, epochs=epochs, learning_rate=TUNED_RATE * recipe.learning_rate)


def measure(
    weight: float | None, data: tuple[Images, Images], recipe: Recipe, seed: int, pictures: Path | None
) -> dict[str, Any]:
    """Train one network; fold it and train it on if its layers share.

    Args:
        weight: The weight of the regulariser. None leaves the network its own weights.
        data: The training set and the test set.
        recipe: The recipe.
        seed: The seed of the network and of the order of the images.
        pictures: The path of the pictures without their endings. None draws no picture.
    """
    training, test = data
    torch.manual_seed(seed)
    model = WideResNet(DEPTH, WIDTH, training.num_classes, training.channels)
    if weight is None:
        train(model, training, recipe, seed)
        return {"parameters": shapeshift.count_parameters(model), "error": error(model, test)}
    soft_share(model, TEMPLATES)
    recorder = SimilarityRecorder(model)
    loss = Sharing(model, weight) if weight else None
    train(model, training, recipe, seed, recorder.record, loss)
    run: dict[str, Any] = {"parameters": shapeshift.count_parameters(model), "error": error(model, test)}
    run["similarity"] = {name: mean_similarity(matrix) for name, matrix in similarity(model).items()}
    if pictures is not None:
        plot_similarity(model, f"{pictures}_similarity.png")
        recorder.plot(f"{pictures}_evolution.png")
    folding = fold(model, THRESHOLD)
    run |= {"folding": folding.as_dict(), "folded error": error(model, test)}
    if pictures is not None:
        Path(f"{pictures}_graph.md").write_text(f"```mermaid\n{folding.mermaid()}\n```\n")
    train(model, training, tuned(recipe), seed)
    return {**run, "tuned error": error(model, test)}


def mean_similarity(matrix: Tensor) -> float:
    """Return the mean over pairs of different layers."""
    layers = len(matrix)
    return (matrix.sum() - matrix.trace()).item() / (layers * (layers - 1))


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    rows = [_row(kind, runs) for kind, runs in content["runs"].items()]
    header = ["weights", "parameters", "error", "similarity", "folded to", "runs again", "error then", "and trained on"]
    machine, seeds = content["machine"], len(content["runs"]["own weights"])
    return (
        f"Made by `python -m benchmarks.folding` on {machine['processor']}, torch {machine['versions']['torch']}: "
        f"{content['network']} on the digits, {content['templates']} templates for each group, "
        f"{content['recipe']['epochs']} epochs, folded at a similarity of {content['threshold']}, "
        f"{content['tuning']['epochs']} epochs afterwards. All numbers are means over {seeds} "
        f"seed{'s' * (seeds > 1)}, test errors in percent, with standard deviations. The similarity is that of pairs "
        'of layers, and "runs again" counts the blocks that are earlier ones.\n\n' + markdown_table(header, rows) + "\n"
    )


def _row(kind: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    row = [kind, f"{runs[0]['parameters']:,}", _errors(runs, "error")]
    if "folding" not in runs[0]:
        return [*row, "", "", "", "", ""]
    similar = [sum(run["similarity"].values()) / len(run["similarity"]) for run in runs]
    after = [run["folding"]["after"] for run in runs]
    return [
        *row,
        f"{sum(similar) / len(similar):.2f}",
        f"{sum(after) / len(after):,.0f}",
        f"{sum(map(_repeated, runs)) / len(runs):.1f} of {_steps(runs[0])}",
        _errors(runs, "folded error"),
        _errors(runs, "tuned error"),
    ]


def _errors(runs: Sequence[dict[str, Any]], name: str) -> str:
    values = [run[name] for run in runs]
    return f"{statistics.mean(values):.2f} ± {spread(values):.2f}"


def _repeated(run: dict[str, Any]) -> int:
    """Count the steps that run a block again."""
    return sum(
        block != step for schedule in run["folding"]["schedules"] for step, block in enumerate(schedule["blocks"])
    )


def _steps(run: dict[str, Any]) -> int:
    return sum(len(schedule["blocks"]) for schedule in run["folding"]["schedules"])


if __name__ == "__main__":
    main()
