"""What entropy coding saves of the files of trained models, for every format of the stores.

    python -m benchmarks.entropy_coding    # about 10 minutes on one thread; writes JSON and a table

The transformer of ``benchmarks.muon`` predicts the next byte of Python's own modules, in files of one size. Each format
is trained in.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.muon import BATCH, CONTEXT, OPTIMIZERS, ByteModel, bits_per_byte, train
from benchmarks.results import RESULTS, write_json
from shapeshift.store_format import STORE_FORMATS

BUDGET = "250kB"
RATE = 0.003


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entropy_coding", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="steps of each training (default: 300)")
    parser.add_argument("--output", type=Path, default=RESULTS / "entropy_coding.json", help="the JSON file")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)
    formats = tqdm(STORE_FORMATS, desc="entropy coding")
    content = {
        "machine": describe("cpu"),
        "steps": arguments.steps,
        "seed": 0,
        "results": {name: measure(name, arguments.steps) for name in formats},
    }
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def measure(store: str, steps: int) -> dict[str, Any]:
    """Train a model with a format of the stores, and return its parameters, bits per byte, and the bytes of its files.

    Returns:
        The "parameters", the "bits" per byte of held-out text, and the bytes of all files, "plain" and "coded".
    """
    torch.manual_seed(0)
    model = shapeshift.compress(ByteModel(), BUDGET, store=store, rest="bfloat16")
    train(model, OPTIMIZERS["AdamW"](model, RATE), 0, steps)
    found: dict[str, Any] = {"parameters": shapeshift.count_parameters(model), "bits": bits_per_byte(model)}
    for name, coding in (("plain", False), ("coded", True)):
        with tempfile.TemporaryDirectory() as folder:
            shapeshift.save(model, folder, entropy_coding=coding)
            found[name] = sum(file.stat().st_size for file in Path(folder).iterdir())
    return found


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    rows = [
        [
            f"`{name}`",
            f"{found['parameters']:,}",
            f"{found['plain']:,}",
            f"{found['coded']:,}",
            f"{100 * (1 - found['coded'] / found['plain']):.1f}%",
            f"{found['bits']:.3f}",
        ]
        for name, found in content["results"].items()
    ]
    made = made_by("entropy_coding", content["machine"])
    return (
        f"{made}: bytes of all files of a checkpoint within a budget of {BUDGET}, plain and coded, and the bits per "
        f"byte of held-out text after {content['steps']} steps of {BATCH} x {CONTEXT} bytes.\n\n"
        + markdown_table(["`store=`", "parameters", "plain", "coded", "saved", "bits per byte"], rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
