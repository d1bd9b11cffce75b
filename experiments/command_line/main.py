"""The command line: it reads the arguments, runs one command, and turns errors into a line and an exit status."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import shapeshift
from shapeshift.errors import BudgetError, ConfigError, MissingExtraError, ShapeshiftError
from shapeshift.experiments.command_line import compress, evaluate, inspect, materialize, report

COMMANDS = {
    "inspect": inspect,
    "compress": compress,
    "report": report,
    "materialize": materialize,
    "evaluate": evaluate,
}

_EXAMPLES = """\
examples:
  shapeshift inspect resnet50 --budget 25%          what a quarter of ResNet-50's parameters would share
  shapeshift compress ./my-model --budget 25% --calibration texts.txt --output small/
  shapeshift report small/                          groups, budget, and the error of each layer
  shapeshift evaluate small/ --against ./my-model --data texts.txt
  shapeshift materialize small/ --output plain/     an ordinary checkpoint
  shapeshift demo                                   train small networks on handwritten digits, and compare

exit status: 0, or 1 for a model, a file or data that cannot be used, or 2 for an option that cannot
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments. None means those of the process.

    Returns:
        The exit status: 0; 1 for a model, a file or data that cannot be used; 2 for an option that cannot. An error is
        one line on the standard error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # The demo parses its own options, which include --help.
        if arguments[:1] == ["demo"]:
            return _demo(arguments[1:])
        parsed = _parser().parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            COMMANDS[parsed.command].run(parsed)
    except ShapeshiftError as error:
        print(f"shapeshift: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, BudgetError | ConfigError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="shapeshift",
        description="Compress neural networks: generate their weights from shared parameters, within a budget.",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"shapeshift {shapeshift.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(
                name,
                help=command.SUMMARY,
                description=command.DESCRIPTION,
                epilog=command.EXAMPLES,
                formatter_class=formatter,
            )
        )
    commands.add_parser("demo", help="train on handwritten digits, and compare (demo --help lists its options)")
    return parser


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning of this library in one line; those of others are for programmers."""
    if issubclass(category, shapeshift.ShapeshiftWarning):
        print(f"shapeshift: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _demo(arguments: Sequence[str]) -> int:
    try:
        from shapeshift.experiments.demo import main as demo
    except ImportError as error:
        raise MissingExtraError("the demo", "demo") from error
    return demo(arguments)
