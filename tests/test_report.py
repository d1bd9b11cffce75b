"""Reports, pictures and optimizer groups."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import shapeshift
from shapeshift.errors import MissingExtraError, ModelError
from shapeshift.mapping_layout import COLORS, STORE_COLOR, bars
from shapeshift.mappings import MAPPINGS
from shapeshift.plot import plot_mapping
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed, every_method, least_used
from tests.models import MODELS, Language, PartlyFrozen, Residual, mlp
from tests.tolerances import assert_close

BUDGETS = (0.4, 0.8, 2.5)


class Wrapper(nn.Module):
    """A model inside another module, as DDP holds it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("budget", BUDGETS)
@every_method
@pytest.mark.parametrize("name", MODELS)
def test_a_report_adds_up(name: str, options: dict[str, str], budget: float) -> None:
    model = MODELS[name].build()
    dense = shapeshift.count_parameters(model)
    plan = require_shared(compressed(model, budget, **options)).plan
    report = shapeshift.report(model)
    assert report.dense == dense
    assert report.parameters == shapeshift.count_parameters(model)
    assert report.untouched + sum(group.parameters for group in report.groups) == report.parameters
    assert report.untouched + sum(group.dense for group in report.groups) == report.dense
    for group, reported in zip(require_shared(model).generators(), report.groups, strict=True):
        assert reported.parameters == sum(parameter.numel() for parameter in group.parameters())
        assert [(w.name, w.shape) for w in reported.weights] == [(w.name, w.shape) for w in group.weights]
        assert sum(reported.sampling.values()) == len(reported.weights)
        for weight in reported.weights:
            assert all(0 <= begin < end <= reported.stores[store] for store, begin, end in weight.source.templates)
            # Templates are as large as what is made of them, or parts of a weight, unless they are stretched.
            sizes = [template.end - template.begin for template in weight.source.templates]
            assert max(sizes) < weight.numel if weight.source.upsampled else sum(sizes) >= weight.numel

    content = json.loads(json.dumps(report.as_dict()))
    assert least_used(plan) <= content["budget_used"] <= 1
    shares = sum(group["budget_share"] for group in content["groups"])
    assert shares == pytest.approx((report.parameters - report.untouched) / report.budget)


@every_method
def test_a_report_names_the_parts_of_the_store_that_a_weight_depends_on(options: dict[str, str]) -> None:
    model = shapeshift.compress(Residual(), 0.7, **options)
    report = shapeshift.report(model)
    for group, reported in zip(require_shared(model).generators(), report.groups, strict=True):
        for index, weight in enumerate(reported.weights):
            group.zero_grad()
            with torch.no_grad():
                for parameter in group.coefficient_parameters():
                    parameter.fill_(1.0)
            generated = group.generate([index])[0]
            generated.backward(torch.randn_like(generated))
            for store, size in reported.stores.items():
                drawn = torch.zeros(size, dtype=torch.bool)
                for template in weight.source.templates:
                    if template.store == store:
                        drawn[template.begin : template.end] = True
                pieces = [piece for name, piece in group.named_parameters() if name.startswith(f"{store}.")]
                touched = torch.cat(
                    [torch.zeros(piece.numel()) if piece.grad is None else piece.grad.view(-1) for piece in pieces]
                )
                # A template that is shrunk bilinearly has numbers that are passed over.
                assert drawn[touched != 0].all()
                # Those that read a ring lie all over it.
                least = {"softmax": 0.1, "ring": 0.0}.get(options.get("combine", ""), 0.999)
                assert (touched[drawn] != 0).float().mean() > least


def test_the_report_of_a_plan_is_that_of_the_model_it_makes() -> None:
    model = Language()
    planned = shapeshift.report(shapeshift.plan_compression(model, 0.5))
    assert planned.as_dict() == shapeshift.report(shapeshift.compress(model, 0.5)).as_dict()


def test_the_bytes_of_the_checkpoint_are_those_on_disk(tmp_path: Path) -> None:
    model = shapeshift.compress(timm.create_model("resnet18"), "25%")
    shapeshift.save(model, tmp_path)
    assert shapeshift.report(model).checkpoint_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_a_table_is_printed_with_rich_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    report = shapeshift.report(Wrapper(shapeshift.compress(Residual(width=16), 0.7)))
    texts = [str(report)]
    assert "┃" in texts[0]
    monkeypatch.setitem(sys.modules, "rich.console", None)
    texts.append(str(report))
    assert "┃" not in texts[1]
    for text in texts:
        for group in report.groups:
            row = next(line for line in text.splitlines() if group.name in line)
            assert f"{group.parameters:,}" in row
            assert f"{group.dense:,}" in row
            assert f"{group.parameters / report.budget:.1%}" in row
        assert f"{report.dense:,} parameters before, {report.parameters:,} after" in text


def test_a_plain_model_has_no_report() -> None:
    with pytest.raises(ModelError, match="Sequential is not compressed"):
        shapeshift.report(mlp())


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("mapping", list(MAPPINGS))
def test_a_picture_shows_every_layer_and_every_template(mapping: str, budget: float, tmp_path: Path) -> None:
    model = shapeshift.compress(Residual(), budget, mapping=mapping)
    report = shapeshift.report(model)
    plot_mapping(report, tmp_path / "mapping.svg")
    drawn = (tmp_path / "mapping.svg").read_text()
    found = iter(bars(report))
    for group in report.groups:
        assert f"<!-- {group.name} -->" in drawn
        for weight in group.weights:
            assert f"<!-- {weight.name} -->" in drawn
            bands = {store: next(found) for store in group.stores}
            for window in weight.source.templates:
                band, bar = bands[window.store], next(found)
                unit = band.width / group.stores[window.store]
                assert (band.color, bar.color) == (STORE_COLOR, COLORS[weight.source.sampling])
                assert bar.left == pytest.approx(band.left + unit * window.begin)
                assert bar.width == pytest.approx(max(0.002, unit * (window.end - window.begin)))
                assert band.top <= bar.top < bar.top + bar.height <= band.top + band.height + 1e-9
    assert next(found, None) is None


def test_a_picture_is_a_png(tmp_path: Path) -> None:
    plot_mapping(shapeshift.plan_compression(mlp(), 0.5), tmp_path / "mapping.png")
    assert (tmp_path / "mapping.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_a_deep_model_stays_of_a_size(tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_mapping(shapeshift.plan_compression(mlp(depth=400), 0.5), tmp_path / "mapping.png")
    height, width, _ = imread(tmp_path / "mapping.png").shape
    assert 1000 < width < 2000
    assert 3000 < height < 5000


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = shapeshift.report(shapeshift.compress(mlp(), 0.5))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "shapeshift\[plot\]"'):
        plot_mapping(report, tmp_path / "mapping.png")


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("budget", [None, *BUDGETS])
@pytest.mark.parametrize("name", MODELS)
def test_weight_decay_spares_coefficients_and_vectors(name: str, budget: float | None, wrap: bool) -> None:
    model = MODELS[name].build()
    coefficients: list[nn.Parameter] = []
    if budget is not None:
        shapeshift.compress(model, budget)
        coefficients = [p for group in require_shared(model).generators() for p in group.coefficient_parameters()]
    decayed, spared = shapeshift.parameter_groups(Wrapper(model) if wrap else model, weight_decay=0.05)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)

    placed = [id(parameter) for parameter in (*decayed["params"], *spared["params"])]
    assert len(placed) == len(set(placed))
    assert set(placed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert {id(parameter) for parameter in coefficients} <= {id(parameter) for parameter in spared["params"]}
    matrices = {id(parameter) for parameter in spared["params"] if parameter.dim() > 1}
    assert matrices <= {id(parameter) for parameter in coefficients}
    torch.optim.AdamW([decayed, spared])


def test_wrapped_models_are_looked_into(tmp_path: Path) -> None:
    model = shapeshift.compress(Residual(), 0.5)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", world_size=1, rank=0)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for wrapped in (parallel, torch.compile(model, backend="eager"), torch.compile(parallel, backend="eager")):
            assert shapeshift.report(wrapped) == shapeshift.report(model)
            for ours, theirs in zip(
                shapeshift.parameter_groups(wrapped, 0.1), shapeshift.parameter_groups(model, 0.1), strict=True
            ):
                assert list(map(id, ours["params"])) == list(map(id, theirs["params"]))
            shapeshift.save(wrapped, tmp_path / "saved")
            restored = shapeshift.load(tmp_path / "saved", Residual())
            assert_close(dict(restored.state_dict()), dict(model.state_dict()), "identical")
    finally:
        torch.distributed.destroy_process_group()


def test_a_wholly_frozen_model_has_nothing_to_optimize() -> None:
    with pytest.raises(ModelError, match="PartlyFrozen has no trainable parameter"):
        shapeshift.parameter_groups(PartlyFrozen().requires_grad_(False), 0.1)
