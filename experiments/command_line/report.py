"""``shapeshift report``: what a compressed model on disk holds."""

from __future__ import annotations

import argparse
from pathlib import Path

import shapeshift
from shapeshift.experiments.command_line.options import add_json, add_trust
from shapeshift.experiments.command_line.printing import show
from shapeshift.experiments.command_line.sources import open_model, writing
from shapeshift.text_table import text_table

SUMMARY = "show the groups, the budget and the layers' errors of a compressed model"
DESCRIPTION = "Show which layers of a compressed model share which parameters, and how well a fit met each layer."
EXAMPLES = """\
examples:
  shapeshift report small/
  shapeshift report small/ --html report.html
  shapeshift report small/ --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="FOLDER", help="a folder that `shapeshift compress` wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the mapping drawn, too")
    add_trust(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the report of a compressed model.

    Raises:
        ShapeshiftError: if there is none in the folder, or the page cannot be written.
    """
    source = open_model(arguments.model, trust_remote_code=arguments.trust_remote_code)
    report = shapeshift.report(source.model)
    title = f"{arguments.model} ({type(source.model).__name__})"
    if arguments.html:
        with writing(arguments.html):
            arguments.html.write_text(report.to_html(title), encoding="utf-8")
    show(report, report.as_dict(), arguments.json, title=title)
    if not arguments.json:
        print(f"\n{_layers(report)}")


def _layers(report: shapeshift.Report) -> str:
    """Return a line for each layer: its group, the templates that it mixes, and the error of the fit."""
    return text_table(
        ("layer", "shape", "group", "templates", "sampling", "error"),
        [
            (
                weight.name,
                "x".join(map(str, weight.shape)),
                group.name,
                str(len(weight.source.templates)),
                weight.source.sampling,
                "not fitted" if weight.error is None else f"{weight.error:.1%}",
            )
            for group in report.groups
            for weight in group.weights
        ],
    )
