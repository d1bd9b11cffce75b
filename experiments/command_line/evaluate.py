"""``shapeshift evaluate``: what a compressed model does on data, beside the model that it was made of."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from shapeshift.experiments.command_line.batches import read_batches
from shapeshift.experiments.command_line.options import add_data, add_json, add_model
from shapeshift.experiments.command_line.printing import progressing, show
from shapeshift.experiments.command_line.scores import Comparison, Scores, measure
from shapeshift.experiments.command_line.sources import open_model
from shapeshift.text_table import text_table

SUMMARY = "measure a model on data, beside another one"
DESCRIPTION = """\
Measure the perplexity of a causal language model on a text, or the accuracy of a classifier on a folder of images, the
size of the files and the speed; and with --against, how far the outputs of the two models agree.
"""
EXAMPLES = """\
examples:
  shapeshift evaluate small/ --against ./my-model --data texts.txt
  shapeshift evaluate small/ --against resnet18 --weights resnet18.safetensors --data images/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("compressed", metavar="FOLDER", help="a folder that `shapeshift compress` wrote, or any other")
    add_model(parser, "--against", "the model to compare it with")
    add_data(parser, "--data", "what to measure on", samples=None, required=True)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure one model or two, and print the scores.

    Raises:
        ShapeshiftError: if a model or the data cannot be read.
    """
    trust = arguments.trust_remote_code
    sources = {arguments.compressed: open_model(arguments.compressed, trust_remote_code=trust)}
    if arguments.against is not None:
        other = open_model(arguments.against, arguments.weights, arguments.model_args, trust)
        sources[arguments.against] = other
    first = next(iter(sources.values()))
    batches = read_batches(first, arguments.data, arguments.length, arguments.batch_size, arguments.samples)
    shown = progressing(batches, "evaluating", arguments.json)
    scores, comparison = measure(list(sources.values()), shown)
    content: dict[str, Any] = {name: dataclasses.asdict(found) for name, found in zip(sources, scores, strict=True)}
    content = {"models": content, "comparison": comparison and dataclasses.asdict(comparison)}
    show(_table(list(sources), scores, comparison), content, arguments.json)


def _table(names: list[str], scores: list[Scores], comparison: Comparison | None) -> str:
    """Return the scores as a table, and the comparison in a line."""
    shown: dict[str, list[str]] = {
        "parameters": [f"{found.parameters:,}" for found in scores],
        "bytes": [f"{found.bytes:,}" for found in scores],
        "samples / s": [f"{found.samples_per_second:,.1f}" for found in scores],
        "perplexity": [f"{found.perplexity:,.3f}" if found.perplexity is not None else "" for found in scores],
        "top-1": [f"{found.top1:.2%}" if found.top1 is not None else "" for found in scores],
    }
    text = text_table(("", *names), [(key, *row) for key, row in shown.items() if any(row)])
    if comparison is None:
        return text
    same = "" if comparison.agreement is None else f"the same highest score: {comparison.agreement:.2%}, "
    return f"{text}\n{same}relative error of the outputs: {comparison.output_error:.2%}"
