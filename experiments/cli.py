"""The command line: ``shapeshift inspect`` and ``shapeshift demo``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import shapeshift
from shapeshift.errors import MissingExtraError, ShapeshiftError
from shapeshift.generators import GENERATORS
from shapeshift.integrations.model_names import build_on_meta
from shapeshift.mappings import MAPPINGS
from shapeshift.upsamplers import UPSAMPLERS

_EXAMPLES = """\
examples:
  shapeshift inspect resnet50 --budget 25%          a quarter of ResNet-50's parameters
  shapeshift inspect bert --budget 16MB --store int8
                                                    a checkpoint of 16 MB, its stores in 8 bits
  shapeshift inspect bert --budget 30M --plot bert.png
                                                    a transformers model type, and a picture of the sharing
  shapeshift inspect ./my-model --budget 0.5        the folder of a transformers config.json
  shapeshift demo                                   train small networks on handwritten digits, and compare
"""

_INSPECT = """\
Show which layers of a model would share which parameters within a budget. Nothing is downloaded and no weight is
allocated, so models of any size are planned in seconds.
"""

_INSPECT_EXAMPLES = """\
examples:
  shapeshift inspect resnet50 --budget 25%
  shapeshift inspect vit_large_patch16_224 --budget 80M --mapping shape --upsample interpolate
  shapeshift inspect transformers:bert --budget 4x --exclude embeddings --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments. None means those of the process.

    Returns:
        The exit status: 0, or 2 for a mistake of the user, with a message on the standard error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # The demo parses its own options, which include --help.
        if arguments[:1] == ["demo"]:
            return _demo(arguments[1:])
        return _inspect(_parser().parse_args(arguments))
    except ShapeshiftError as error:
        print(f"shapeshift: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="shapeshift",
        description="Compress neural networks: generate their weights from shared parameters, within a budget.",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"shapeshift {shapeshift.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    inspect = commands.add_parser(
        "inspect",
        help="show how a budget would compress a model",
        description=_INSPECT,
        epilog=_INSPECT_EXAMPLES,
        formatter_class=formatter,
    )
    defaults = shapeshift.Config()
    inspect.add_argument(
        "model",
        metavar="MODEL",
        help="a timm name (resnet50), a transformers model type (bert), or the config.json of a transformers model or "
        "its folder; timm:NAME or transformers:NAME to say which",
    )
    inspect.add_argument(
        "--budget",
        required=True,
        help="the largest number of trainable parameters: a number (300000, 300k, 1.5M) or a share of "
        "the model's own (0.25, 25%%, 4x); or the largest checkpoint, in bytes (500kB, 16MB, 1MiB)",
    )
    for name, registry, what in (
        ("mapping", MAPPINGS, "which weights share a store"),
        ("combine", GENERATORS, "how a weight is made from templates where the store has room for them"),
        ("upsample", UPSAMPLERS, "how a store is stretched to a larger weight"),
    ):
        default = getattr(defaults, name)
        inspect.add_argument(f"--{name}", choices=list(registry), default=default, help=f"{what} (default: {default})")
    for name, what in (
        ("store", "how a checkpoint keeps the stores: float32, bfloat16, float16, int8, int6 or int4"),
        ("rest", "how it keeps the parameters that are not generated: float32, bfloat16 or float16"),
    ):
        default = getattr(defaults, name)
        inspect.add_argument(f"--{name}", metavar="FORMAT", default=default, help=f"{what} (default: {default})")
    inspect.add_argument("--max-templates", type=int, metavar="N", help="the most templates of a weight")
    inspect.add_argument(
        "--num-groups",
        type=int,
        default=defaults.num_groups,
        metavar="N",
        help="the number of groups of a random mapping",
    )
    for name, what in (("include", "generate only these"), ("exclude", "leave these as they are")):
        inspect.add_argument(
            f"--{name}", nargs="+", default=(), metavar="PATTERN", help=f"{what}: names or patterns of layers"
        )
    inspect.add_argument("--plot", type=Path, metavar="FILE", help="write a picture of the mapping (PNG, SVG or PDF)")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")

    commands.add_parser("demo", help="train on handwritten digits, and compare (demo --help lists its options)")
    return parser


def _inspect(arguments: argparse.Namespace) -> int:
    config = shapeshift.Config(
        mapping=arguments.mapping,
        combine=arguments.combine,
        upsample=arguments.upsample,
        max_templates=arguments.max_templates,
        num_groups=arguments.num_groups,
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        store=arguments.store,
        rest=arguments.rest,
    )
    model = build_on_meta(arguments.model)
    report = shapeshift.report(shapeshift.plan_compression(model, arguments.budget, config))
    if arguments.plot is not None:
        try:
            shapeshift.plot_mapping(report, arguments.plot)
        except (OSError, ValueError) as error:  # a missing folder, or an unknown suffix
            raise ShapeshiftError(f"the picture cannot be written to {arguments.plot}: {error}") from error
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print(f"{arguments.model} ({type(model).__name__})")
        _print(report)
    return 0


def _print(report: shapeshift.Report) -> None:
    """Print a table. In a terminal it has colours and the terminal's width."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            Console().print(report)
            return
    print(report)


def _demo(arguments: Sequence[str]) -> int:
    try:
        from shapeshift.experiments.demo import main as demo
    except ImportError as error:
        raise MissingExtraError("the demo", "demo") from error
    return demo(arguments)


if __name__ == "__main__":
    sys.exit(main())
