"""``shapeshift compress``: a trained model on disk becomes a smaller one on disk."""

from __future__ import annotations

import argparse
import importlib.util

import shapeshift
from shapeshift.experiments.command_line.batches import read_batches
from shapeshift.experiments.command_line.options import (
    add_budget,
    add_config,
    add_data,
    add_json,
    add_model,
    chosen_config,
)
from shapeshift.experiments.command_line.printing import is_shown, show
from shapeshift.experiments.command_line.sources import check_output, open_model, writing

SUMMARY = "make a smaller model of a trained one"
DESCRIPTION = """\
Fit shared parameters within a budget to the weights of a trained model, and write them. With calibration data, the
errors of the layers' outputs are the least, and not those of the weights.
"""
EXAMPLES = """\
examples:
  shapeshift compress ./my-model --budget 25% --calibration texts.txt --output small/
  shapeshift compress resnet18 --weights resnet18.safetensors --budget 3M --calibration images/ --output small/
  shapeshift compress ./my-model --budget 16MB --store int8 --output small/       all of its files in 16 MB
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser, "model", "the trained model")
    add_budget(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a folder, new or empty")
    add_data(parser, "--calibration", "samples that the layers' outputs are fitted on", samples=128, required=False)
    add_config(parser, init="fit")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Compress a model, write it, and print the report.

    Raises:
        ShapeshiftError: if the model or the data cannot be read, the budget cannot be met, or the output exists.
    """
    config, output = chosen_config(arguments), check_output(arguments.output)
    source = open_model(arguments.model, arguments.weights, arguments.model_args, arguments.trust_remote_code)
    batches = None
    if arguments.calibration is not None:
        batches = read_batches(source, arguments.calibration, arguments.length, arguments.batch_size, arguments.samples)
    progress = config.init == "fit" and is_shown(arguments.json) and importlib.util.find_spec("tqdm") is not None
    shapeshift.compress(source.model, arguments.budget, config, calibration=batches, progress=progress)
    report = shapeshift.report(source.model)
    in_bytes = config.store != "float32" or config.rest != "float32" or report.budget_bytes is not None
    with writing(output):
        source.write(output, packed=in_bytes)
    show(report, {"output": str(output), **report.as_dict()}, arguments.json, title=f"{arguments.model} -> {output}")
