"""The sizes of exported files, and of what onnxruntime makes of them: ``python -m benchmarks.exports``."""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from shapeshift.networks.wide_resnet import WideResNet

BUDGETS = (None, "25%", "12k")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "exports.json")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    content: dict[str, Any] = {"machine": describe("cpu"), "network": "WRN-16-1", "sizes": {}}
    for budget in tqdm(BUDGETS, desc="budgets"):
        torch.manual_seed(0)
        model = WideResNet(16, 1.0)
        if budget is not None:
            shapeshift.compress(model, budget)
        content["sizes"][budget or "dense"] = sizes(model.eval(), torch.randn(1, 3, 32, 32))
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def sizes(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the bytes of a model's parameters and buffers, and of the files that it is exported to."""
    found = {"parameters and buffers": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        program: Any = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
        program.save(file)
        found["ONNX, dynamo=True"] = file.stat().st_size
        ClearMetadataAndDocStringPass()(program.model)
        program.save(file)
        found["ONNX, without the exporter's notes"] = file.stat().st_size
        found["onnxruntime's session of it"] = _in_session(file, [])
        found["the same, without constant folding"] = _in_session(file, ["ConstantFolding"])
        torch.onnx.export(model, (x,), file, dynamo=False)
        found["ONNX, dynamo=False"] = file.stat().st_size
    archive = torch.export.export(model, (x,))
    found["torch.export"] = _written(lambda target: torch.export.save(archive, target))
    traced = torch.jit.trace(model, (x,))
    found["torch.jit.trace"] = _written(lambda target: torch.jit.save(traced, target))
    frozen = torch.jit.freeze(traced)
    found["torch.jit.freeze of it"] = _written(lambda target: torch.jit.save(frozen, target))
    return found


def _written(save: Callable[[io.BytesIO], object]) -> int:
    target = io.BytesIO()
    save(target)
    return len(target.getvalue())


def _in_session(file: Path, disabled: list[str]) -> int:
    """Return the size of the graph that a session of onnxruntime runs, with its constants."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(file.with_name("session.onnx"))
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    return file.with_name("session.onnx").stat().st_size


def render(content: dict[str, Any]) -> str:
    """Return the sizes as a table in Markdown."""
    found = content["sizes"]
    header = ["kB", *(name if name == "dense" else f"at {name}" for name in found)]
    rows = [[kind, *(f"{sizes[kind] / 1000:,.1f}" for sizes in found.values())] for kind in found["dense"]]
    return f"{made_by('exports', content['machine'])}: a {content['network']}.\n\n{markdown_table(header, rows)}\n"


if __name__ == "__main__":
    main()
