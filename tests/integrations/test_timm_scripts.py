"""What timm's scripts ask of a compressed model: checkpoints of plain models, scaled heads, scripts without options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.utils import ParseKwargs

import shapeshift
import shapeshift.integrations.timm  # registers the names
from shapeshift.errors import GeneratedWeightError
from tests.tolerances import assert_close

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def create(name: str = "shapeshift_test_resnet", **options: Any) -> Any:
    return timm.create_model(name, num_classes=5, **options).eval()


def test_a_plain_checkpoint_is_fitted_as_pretrained_weights_and_refused_otherwise(tmp_path: Path) -> None:
    plain, path = create("test_resnet"), tmp_path / "plain.pth"
    torch.save({"state_dict": plain.state_dict()}, path)
    with pytest.raises(GeneratedWeightError, match=r'conv1\.0\.weight .*init="fit"'):
        create(budget="120%", checkpoint_path=path)
    # as --pretrained --pretrained-path of train.py, which starts a new head besides
    overlay = {"file": str(path), "num_classes": 5}
    fitted = create(budget="120%", mapping="shape", pretrained=True, pretrained_cfg_overlay=overlay)
    assert_close(fitted(IMAGES), plain(IMAGES), "fitted")


def test_a_head_that_is_kept_out_is_scaled() -> None:
    model = create(budget="50%", exclude=["fc"])
    before = model.get_classifier().weight.detach().clone()
    with torch.no_grad():  # as --head-init-scale of train.py
        model.get_classifier().weight.mul_(0.1)
    assert_close(model.fc.weight, 0.1 * before, "identical")


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_script_without_options_takes_a_folder(tmp_path: Path, pretrained: bool) -> None:
    model = create(budget="50%", mapping="shape")
    save_for_hf(model, tmp_path, model_args={"budget": "50%", "mapping": "shape"})
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=pretrained, num_classes=5).eval()
    assert set(loaded.shapeshift) == set(model.shapeshift)
    assert shapeshift.count_parameters(loaded) == shapeshift.count_parameters(model)
    if pretrained:
        assert_close(loaded(IMAGES), model(IMAGES), "identical")


def test_a_budget_is_read_from_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-kwargs", nargs="*", action=ParseKwargs)
    found = parser.parse_args(["--model-kwargs", "budget=25%", "mapping=shape"]).model_kwargs
    assert found == {"budget": "25%", "mapping": "shape"}
    assert shapeshift.is_compressed(create(**found))


@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning", "ignore:Using a non-tuple sequence:UserWarning")
def test_a_refused_input_size_leaves_the_model_as_it_was() -> None:
    for name in ("test_vit", "test_maxvit"):  # position embeddings, and tables of relative positions
        model = create(name)
        side = model.default_cfg["input_size"][-1]
        x = torch.randn(1, 3, side, side)
        shapeshift.compress(model, "60%")
        expected = model(x)
        with pytest.raises(GeneratedWeightError, match=r"cannot be assigned.*keep it out with exclude="):
            model.set_input_size((2 * side, 2 * side))
        assert_close(model(x), expected, "identical")
        assert getattr(model, "patch_embed", None) is None or model.patch_embed.img_size == (side, side)
