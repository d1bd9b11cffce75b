"""Exported files keep the sharing: ONNX and torch.export, for every generator, with onnxruntime as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift import ShapeshiftWarning
from shapeshift.generators import GENERATORS
from tests.methods import compressed
from tests.tolerances import assert_close

onnx_passes = pytest.importorskip("onnx_ir.passes.common")
onnxruntime = pytest.importorskip("onnxruntime")

# What a file may hold besides parameters and buffers: for each node of the graph, and for all else.
NODE_BYTES, OTHER_BYTES = 250, 6000


class Small(nn.Module):
    """Weights of several shapes, some of them equal: a convolution, three equal layers, and a head.

    The exporter folds operations on constants of at most 8,192 entries, so the stores are larger.
    """

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu().mean((2, 3))
        for layer in self.layers:
            x = layer(x).relu()
        found: Tensor = self.head(x)
        return found


def num_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def exported(model: nn.Module, x: Tensor) -> Any:
    """Export a model to ONNX, as the documentation says."""
    program: Any = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    onnx_passes.ClearMetadataAndDocStringPass()(program.model)
    return program


def run(file: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_onnx_files_keep_the_sharing(name: str, tmp_path: Path) -> None:
    model, x, file = compressed(Small(), 0.4, combine=name).eval(), torch.randn(2, 1, 8, 8), tmp_path / "model.onnx"
    program = exported(model, x)
    program.save(file)
    with torch.no_grad():
        assert_close(run(file, x), model(x), "another runtime")
    assert file.stat().st_size <= num_bytes(model) + NODE_BYTES * len(program.model.graph) + OTHER_BYTES
    assert file.stat().st_size < num_bytes(Small())


@pytest.mark.parametrize(
    ("entries", "optimize", "is_folded"), [(8192, True, True), (8193, True, False), (8192, False, False)]
)
def test_onnx_files_of_small_stores_are_folded(entries: int, optimize: bool, is_folded: bool, tmp_path: Path) -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(128, 96, bias=False), nn.Linear(96, 128, bias=False)), entries)
    program: Any = torch.onnx.export(
        model.eval(), (torch.randn(1, 128),), dynamo=True, verbose=False, optimize=optimize
    )
    constants = [value.const_value.size for value in program.model.graph.initializers.values()]
    assert sum(constants) >= 96 * 128 if is_folded else sum(constants) < entries + 100


@pytest.mark.parametrize("name", list(GENERATORS))
def test_archives_of_torch_export_keep_the_sharing(name: str, tmp_path: Path) -> None:
    model, x, file = compressed(Small(), 0.4, combine=name).eval(), torch.randn(2, 1, 8, 8), tmp_path / "model.pt2"
    program = torch.export.export(model, (x,))
    torch.export.save(program, file)
    with torch.no_grad():
        assert_close(torch.export.load(file).module()(x), model(x), "compiled")
    assert sum(tensor.nbytes for tensor in program.state_dict.values()) <= num_bytes(model)
    assert not {name for name, tensor in program.constants.items() if tensor.numel() > 1000}


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")  # torch's own use of it
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_exporter_of_torchscript_is_warned_of(tmp_path: Path) -> None:
    model, x = compressed(Small(), 0.4).eval(), torch.randn(2, 1, 8, 8)
    with pytest.warns(ShapeshiftWarning, match=r"dynamo=False folds .* take dynamo=True"):
        torch.onnx.export(model, (x,), tmp_path / "folded.onnx", dynamo=False)
    with torch.no_grad():
        assert_close(run(tmp_path / "folded.onnx", x), model(x), "another runtime")
    torch.onnx.export(shapeshift.materialize(model), (x,), tmp_path / "plain.onnx", dynamo=False)
