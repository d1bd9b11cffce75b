"""``shapeshift materialize``: a compressed model on disk becomes an ordinary one."""

from __future__ import annotations

import argparse
import json

import shapeshift
from shapeshift.experiments.command_line.options import add_json, add_trust
from shapeshift.experiments.command_line.sources import check_output, open_model, writing

SUMMARY = "write a compressed model as an ordinary checkpoint"
DESCRIPTION = """\
Write the weights that a compressed model generates into an ordinary checkpoint: a folder that transformers or timm
loads without this library. It takes the memory of the plain model.
"""
EXAMPLES = """\
examples:
  shapeshift materialize small/ --output plain/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="FOLDER", help="a folder that `shapeshift compress` wrote")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a folder, new or empty")
    add_trust(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the plain model, and print what was written.

    Raises:
        ShapeshiftError: if there is no compressed model in the folder, or the output exists.
    """
    output = check_output(arguments.output)
    source = open_model(arguments.model, trust_remote_code=arguments.trust_remote_code)
    before = source.num_bytes
    shapeshift.materialize(source.model)
    with writing(output):
        source.write(output)
    after = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    if arguments.json:
        print(json.dumps({"output": str(output), "bytes": after, "compressed_bytes": before}, indent=2))
        return
    print(f"{arguments.model} -> {output}")
    print(f"model     {type(source.model).__name__}")
    print(f"before    {before:,} bytes")
    print(f"after     {after:,} bytes")
