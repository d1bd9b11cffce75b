"""How hard the glyphs are: the error of a small network after a short training.

    python -m benchmarks.glyph_difficulty    # some ten minutes on a core that is free; writes JSON and a line

The ranges in experiments/data/glyphs.py are chosen so that WRN-16-1 ends between 5% and 15% test error: far enough
from zero that networks differ, and low enough that each of them has learned the task.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe
from benchmarks.results import RESULTS, write_json
from shapeshift.experiments.data.glyphs import glyphs
from shapeshift.experiments.training import Recipe, error, train
from shapeshift.networks.wide_resnet import WideResNet


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.glyph_difficulty", description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=20_000, help="training images (default: 20000)")
    parser.add_argument("--test", type=int, default=10_000, help="test images (default: 10000)")
    parser.add_argument("--epochs", type=int, default=20, help="default: 20")
    parser.add_argument("--seed", type=int, default=0, help="of the network and of the order of the images")
    parser.add_argument("--data-dir", type=Path, help="where the images are kept (default: the user's cache)")
    parser.add_argument("--output", type=Path, default=RESULTS / "glyph_difficulty.json")
    arguments = parser.parse_args(argv)

    content = measure(arguments)
    write_json(arguments.output, content)
    line = render(content)
    arguments.output.with_suffix(".md").write_text(line)
    print(line)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train WRN-16-1 on one thread, and return its errors in percent."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    training, test = glyphs(arguments.data_dir, train=arguments.train, test=arguments.test)
    recipe = Recipe(epochs=arguments.epochs, batch_size=128)
    # Convolutions of few channels take half the time in this layout.
    model = WideResNet(16, 1, num_classes=training.num_classes).to(memory_format=torch.channels_last)
    begin = time.perf_counter()
    with tqdm(total=recipe.epochs, desc="epochs") as progress:
        train(model, training, recipe, arguments.seed, on_epoch=progress.update)
    return {
        "machine": describe("cpu"),
        "recipe": asdict(recipe),
        "seed": arguments.seed,
        "train": arguments.train,
        "test": arguments.test,
        "parameters": shapeshift.count_parameters(model),
        "seconds": time.perf_counter() - begin,
        "training_error": error(model, training),
        "test_error": error(model, test),
    }


def render(content: dict[str, Any]) -> str:
    """Make the line of a result."""
    return (
        f"Made by `python -m benchmarks.glyph_difficulty`: WRN-16-1 ({content['parameters']:,} parameters) ends at "
        f"{content['test_error']:.2f}% test error and {content['training_error']:.2f}% training error after "
        f"{content['recipe']['epochs']} epochs on {content['train']:,} glyphs, tested on {content['test']:,} "
        f"(seed {content['seed']}).\n"
    )


if __name__ == "__main__":
    main()
