"""Whether `shapeshift.build` gives what `shapeshift.compress` gives: ``python -m benchmarks.built_families``.

One model of each family of the coverage list, the smallest, is built in both ways from the same seed. All parameters,
buffers and plans, and the random numbers that are drawn next, have to be equal to the last bit. Every tensor from 4 KiB
on is dropped as soon as another one is used.
"""

from __future__ import annotations

import argparse
import importlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

import shapeshift
from benchmarks.coverage.check import Attempt, explain
from benchmarks.coverage.report import result_file
from benchmarks.coverage.sweep import LIBRARIES
from benchmarks.machine import describe
from benchmarks.results import RESULTS, write_json
from shapeshift.plan import budget_range
from shapeshift.running import remaking
from shapeshift.surgery.roots import require_shared

PATH = RESULTS / "built_families.json"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.built_families", description=__doc__.split("\n")[0])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    parser.add_argument("--output", type=Path, default=PATH, help="the JSON file; what it has is not checked again")
    parser.add_argument("--most", type=int, help="the number of families to check in this run")
    arguments = parser.parse_args(argv)
    content: dict[str, Any] = {"machine": describe("cpu"), "families": {}}
    if arguments.output.exists():
        kept = json.loads(arguments.output.read_text(encoding="utf-8"))
        if kept["machine"]["versions"] == content["machine"]["versions"]:
            content = kept
    found = [(library, *family) for library in arguments.libraries for family in families(library)]
    wanted = [entry for entry in found if entry[1] not in content["families"]]
    warnings.simplefilter("ignore")
    for library, family, name, attempt in tqdm(wanted[: arguments.most], desc="families"):
        try:
            difference = first_difference(attempt)
        except Exception as error:
            difference = explain(error)
        content["families"][family] = {"library": library, "model": name, "difference": difference}
        write_json(arguments.output, {**content, "families": dict(sorted(content["families"].items()))})
    differing = [family for family, result in content["families"].items() if result["difference"] is not None]
    print(f"{len(content['families']) - len(differing)} of {len(content['families'])} families are equal", *differing)


def families(library: str) -> Iterator[tuple[str, str, Attempt]]:
    """Yield each family of a library, its smallest model that passes the coverage, and how to build that."""
    models = json.loads(result_file(library).read_text(encoding="utf-8"))["models"]
    smallest: dict[str, str] = {}
    for name in sorted((name for name in models if "dense" in models[name]), key=lambda name: models[name]["dense"]):
        family = name.split("/")[0] if library == "transformers" else timm.model_entrypoint(name).__module__
        if models[name]["outcome"] == "passed":
            smallest.setdefault(family, name)
    attempts = importlib.import_module(f"benchmarks.coverage.{library}_models").attempts
    for family, name in smallest.items():
        wanted = models[name]["attempt"]
        yield family, name, next(attempt for attempt in attempts(name) if attempt.description == wanted)


def first_difference(attempt: Attempt) -> str | None:
    """Build a model in both ways, and return the first thing that differs; None without one."""
    torch.manual_seed(0)
    model = attempt.build()
    least, _ = budget_range(model, shapeshift.Config())
    budget = max(least, shapeshift.count_parameters(model) // 4)
    shapeshift.compress(model, budget)
    drawn = torch.rand(1)

    bounds = remaking.LEAST_BYTES, remaking.KEPT_BYTES
    remaking.LEAST_BYTES, remaking.KEPT_BYTES = 2**12, 0
    try:
        torch.manual_seed(0)
        built = shapeshift.build(attempt.build, budget)
    finally:
        remaking.LEAST_BYTES, remaking.KEPT_BYTES = bounds
    if not torch.equal(torch.rand(1), drawn):
        return "the random numbers that are drawn next"
    if require_shared(built).plan != require_shared(model).plan:
        return "the plan"
    tensors, others = _tensors(built), _tensors(model)
    if list(tensors) != list(others):
        return "the names of the tensors"
    return next((name for name, tensor in tensors.items() if not _equal(tensor, others[name])), None)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    parameters, buffers = (
        list(found(remove_duplicate=False)) for found in (model.named_parameters, model.named_buffers)
    )
    return dict([*parameters, *buffers])


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


if __name__ == "__main__":
    main()
