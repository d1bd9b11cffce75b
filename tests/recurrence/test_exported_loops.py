"""A folded network exports the runs of a block as one loop, with the outputs of the model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import ModelError
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import Folding, fold, soft_share
from tests.foldable import FOLDED, alternate, images
from tests.tolerances import assert_close


def folded(model: nn.Module, templates: int = 1) -> tuple[nn.Module, Folding]:
    """Return a folded model, each of whose norms has statistics of its own, and how it was folded."""
    soft_share(model, templates=templates)
    if templates > 1:
        alternate(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
    return model.eval(), fold(model)


def operators(graph: Any) -> Counter[str]:
    """Count the operators of an ONNX graph and of those inside its nodes."""
    found: Counter[str] = Counter()
    for node in graph:
        found[node.op_type] += 1
        for attribute in node.attributes.values():
            if attribute.type.name == "GRAPH":
                found += operators(attribute.value)
    return found


def test_an_onnx_file_has_the_body_of_a_loop_once(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, folding = folded(WideResNet(28, 0.5), templates=2)
    assert [schedule.blocks for schedule in folding.schedules] == [(0, 0, 0)] * 3
    (x,), counts = images(), []
    for module in (folding.module, folding.for_export()):
        program: Any = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
        counts.append(operators(program.model.graph))
        program.save(tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(found), model(x).detach(), "another runtime")
    convolutions = 2 * 3  # of the bodies, one in each stage
    assert (counts[0]["Scan"], counts[1]["Scan"]) == (0, 3)
    assert counts[1]["Conv"] == counts[0]["Conv"] - 2 * convolutions


@pytest.mark.parametrize("name", ["timm vit", "torch encoder"])
def test_archives_have_the_loop_and_the_outputs_of_the_model(name: str) -> None:
    build, inputs = FOLDED[name]
    model, folding = folded(build())
    module, arguments = folding.for_export(), inputs()
    expected = model(*arguments)
    assert_close(module(*arguments), expected, "identical")
    program = torch.export.export(module, arguments)
    loops = [node for node in program.graph.nodes if str(node.target) == "scan"]
    assert loops
    assert_close(program.module()(*arguments), expected, "compiled")


def test_the_model_is_not_changed() -> None:
    model, folding = folded(WideResNet(22, 0.5))
    before, names = model(*images()), list(model.state_dict())
    folding.for_export()
    assert list(model.state_dict()) == names
    assert shapeshift.count_parameters(model) == folding.after
    model.train()
    assert not folding.for_export().training
    assert model.training
    assert before.shape == model(*images()).shape


class Settings(nn.Module):
    """Blocks with a setting each."""

    def __init__(self, settings: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Block(setting) for setting in settings)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self, setting: int) -> None:
        super().__init__()
        self.first, self.second, self.setting = nn.Linear(8, 8), nn.Linear(8, 8), setting

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.first(x).relu())
        return found.double() if self.setting < 0 else found * self.setting


@pytest.mark.parametrize(("settings", "loops"), [((2, 2, 2), 1), ((2, 2, 3), 1), ((2, 3, 2), 0)])
def test_runs_with_settings_of_their_own_stay_as_they_are(settings: tuple[int, ...], loops: int) -> None:
    model, folding = folded(Settings(settings))
    x = torch.randn(2, 8)
    program = torch.export.export(folding.for_export(), (x,))
    assert sum(str(node.target) == "scan" for node in program.graph.nodes) == loops
    assert_close(program.module()(x), model(x), "compiled")


def test_a_block_that_returns_something_else_is_an_error() -> None:
    model, folding = folded(Settings((-1, -1)))
    with pytest.raises(ModelError, match=r"blocks\.0 \(Block\) cannot be exported as a loop.*Export folding\.module"):
        torch.export.export(folding.for_export(), (torch.randn(2, 8),))
    assert model is not None
