"""``shapeshift inspect``: what a budget would do to a model, without its weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import shapeshift
from shapeshift.errors import ShapeshiftError
from shapeshift.experiments.command_line.options import add_budget, add_config, add_json, chosen_config
from shapeshift.experiments.command_line.printing import show
from shapeshift.integrations.model_names import build_on_meta

SUMMARY = "show how a budget would compress a model"
DESCRIPTION = """\
Show which layers of a model would share which parameters within a budget. Nothing is downloaded and no weight is
allocated, so models of any size are planned in seconds.
"""
EXAMPLES = """\
examples:
  shapeshift inspect resnet50 --budget 25%
  shapeshift inspect vit_large_patch16_224 --budget 80M --mapping shape --upsample interpolate
  shapeshift inspect bert --budget 16MB --store int8           a checkpoint of 16 MB, its stores in 8 bits
  shapeshift inspect bert --budget 30M --plot bert.png         a picture of the sharing
  shapeshift inspect ./my-model --budget 0.5                   the folder of a transformers config.json
  shapeshift inspect transformers:bert --budget 4x --exclude embeddings --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a timm name (resnet50), a transformers model type (bert), or the config.json of a transformers model or "
        "its folder; timm:NAME or transformers:NAME to say which",
    )
    add_budget(parser)
    add_config(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture of the mapping (PNG, SVG or PDF)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Plan, and print the report.

    Raises:
        ShapeshiftError: if the model is unknown, the budget cannot be met, or the picture cannot be written.
    """
    config = chosen_config(arguments)
    model = build_on_meta(arguments.model)
    report = shapeshift.report(shapeshift.plan_compression(model, arguments.budget, config))
    if arguments.plot is not None:
        try:
            shapeshift.plot_mapping(report, arguments.plot)
        except (OSError, ValueError) as error:  # a missing folder, or an unknown suffix
            raise ShapeshiftError(f"the picture cannot be written to {arguments.plot}: {error}") from error
    show(report, report.as_dict(), arguments.json, title=f"{arguments.model} ({type(model).__name__})")
