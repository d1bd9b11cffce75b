"""Tools that replace weights or layers, or look layers up by their exact type: they are refused in time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.utils.prune as torch_prune
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.ao.pruning._experimental.pruner import SaliencyPruner
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn.utils import parametrizations, parametrize

import shapeshift
from shapeshift import GeneratedWeightError, ModelError
from tests.models import mlp
from tests.tolerances import assert_close


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


REPLACING: dict[str, Callable[[nn.Module], Any]] = {
    "l1_unstructured": lambda model: torch_prune.l1_unstructured(model[0], "weight", amount=0.5),
    "ln_structured": lambda model: torch_prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0),
    "identity": lambda model: torch_prune.identity(model[0], "weight"),
    "global_unstructured": lambda model: torch_prune.global_unstructured(
        [(model[0], "weight"), (model[2], "weight")], torch_prune.L1Unstructured, amount=0.5
    ),
    "register_parametrization": lambda model: parametrize.register_parametrization(model[0], "weight", Symmetric()),
    "sparsifier": lambda model: WeightNormSparsifier().prepare(model, [{"tensor_fqn": "0.weight"}]),
    "orthogonal": lambda model: parametrizations.orthogonal(model[0]),
    "spectral_norm": lambda model: parametrizations.spectral_norm(model[0]),
    "weight_norm": lambda model: parametrizations.weight_norm(model[0]),
    "old spectral_norm": lambda model: nn.utils.spectral_norm(model[0]),
    "old weight_norm": lambda model: nn.utils.weight_norm(model[0]),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("tool", REPLACING)
def test_tools_that_replace_a_weight_are_refused_and_change_nothing(tool: str) -> None:
    torch.manual_seed(0)
    model, x = shapeshift.compress(mlp(), "60%"), torch.randn(2, 16)
    expected, state, printed = model(x), copy.deepcopy(model.state_dict()), str(model)
    with pytest.raises(GeneratedWeightError, match=r"0\.weight \(\d+, 16\) .* before shapeshift\.compress"):
        REPLACING[tool](model)
    assert_close(model(x), expected, "identical")
    assert_close(dict(model.state_dict()), dict(state), "identical")
    assert str(model) == printed
    assert not model[0]._forward_pre_hooks
    plain = shapeshift.materialize(copy.deepcopy(model))
    shapeshift.materialize(model)
    for made_plain in (model, plain):
        torch.manual_seed(1)
        REPLACING[tool](made_plain)
    assert_close(model(x), plain(x), "identical")


@pytest.mark.parametrize("exclude", [[], ["2.weight"]], ids=["all generated", "one plain"])
@pytest.mark.parametrize("kind", [WeightNormSparsifier, SaliencyPruner])
def test_a_search_for_layers_of_an_exact_type_is_refused_and_changes_nothing(kind: Any, exclude: list[str]) -> None:
    options = {} if kind is WeightNormSparsifier else {"defaults": {}}
    model = shapeshift.compress(mlp(), "60%", exclude=exclude)
    printed = str(model)
    with pytest.raises(
        ModelError, match=r"exact type, and would pass over \d\.weight \(\d+, 16\).*materialize.*exclude="
    ):
        kind(**options).prepare(model, None)
    assert str(model) == printed
    found = kind(**options)
    found.prepare(shapeshift.materialize(model), None)
    assert len(found.groups) == sum(isinstance(module, nn.Linear) for module in mlp().modules())


def test_layers_outside_of_a_compressed_model_are_found() -> None:
    model = nn.Sequential(
        shapeshift.compress(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), "60%"), nn.Linear(4, 4)
    )
    sparsifier = WeightNormSparsifier()
    sparsifier.prepare(model, None)
    assert [group["module_fqn"] for group in sparsifier.groups] == ["1"]


def test_a_mask_is_not_made_permanent_while_its_weight_is_generated() -> None:
    model, x = mlp(), torch.randn(2, 16)
    torch_prune.l1_unstructured(model[0], "weight", amount=0.5)
    shapeshift.compress(model, "60%")
    expected = model(x)
    with pytest.raises(GeneratedWeightError, match=r"0\.weight_orig .* after shapeshift\.materialize"):
        torch_prune.remove(model[0], "weight")
    assert_close(torch_prune.remove(shapeshift.materialize(model)[0], "weight")(x), model[0](x), "identical")
    assert_close(model(x), expected, "reordered")


def test_parameters_that_are_not_generated_are_replaced_as_in_any_model() -> None:
    model = shapeshift.compress(mlp(), "60%")
    torch_prune.l1_unstructured(model[0], "bias", amount=0.5)
    assert model[0].bias.eq(0).float().mean() == pytest.approx(0.5)
    torch_prune.remove(model[0], "bias")
    del model[2].bias
    assert "weight" not in model[0]._parameters
    with pytest.raises(KeyError, match="scale"):
        model[0]._parameters["scale"]


def test_what_is_printed_names_the_generated_weights() -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(8, 8), nn.GRU(8, 8)), "60%")
    assert "Linear(in_features=8, out_features=8, bias=True, weight generated by shapeshift)" in str(model)
    assert "GRU(8, 8, weight_ih_l0, weight_hh_l0 generated by shapeshift)" in str(model)
    assert "generated" not in str(shapeshift.materialize(model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
class TestQuantization:
    @pytest.mark.parametrize("inplace", [False, True])
    def test_dynamic_is_refused_and_works_after_materialize(self, inplace: bool) -> None:
        model, x = shapeshift.compress(mlp().eval(), "60%"), torch.randn(2, 16)
        expected = model(x)
        with pytest.raises(ModelError, match=r"exact type, .* shapeshift\.materialize\(model\) first"):
            quantization.quantize_dynamic(model, {nn.Linear}, inplace=inplace)
        assert not any(hasattr(module, "qconfig") for module in model.modules())
        assert_close(model(x), expected, "identical")
        quantized = quantization.quantize_dynamic(shapeshift.materialize(model), {nn.Linear})
        assert "quantized" in type(quantized[0]).__module__

    def test_of_a_part_is_refused(self) -> None:
        model = nn.Sequential(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 16))
        shapeshift.compress(model, "60%")
        with pytest.raises(ModelError, match="pass over Linear"):
            quantization.quantize_dynamic(model[0], {nn.Linear})

    @pytest.mark.parametrize("prepare", [quantization.prepare, quantization.prepare_qat])
    def test_with_observers_is_refused(self, prepare: Callable[[nn.Module], nn.Module]) -> None:
        model = shapeshift.compress(nn.Sequential(mlp()), "60%")
        with pytest.raises(ModelError, match="pass over Sequential"):
            model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        with pytest.raises(ModelError, match="pass over Sequential"):
            prepare(model)

    def test_of_a_traced_graph_is_that_of_the_plain_model(self) -> None:
        torch.manual_seed(0)
        model, x = shapeshift.compress(mlp().eval(), "60%"), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        settings = quantization.QConfigMapping().set_global(quantization.default_qconfig)
        found = []
        for traced in (model, plain):
            prepared = prepare_fx(traced, settings, (x,))
            prepared(x)
            found.append(convert_fx(prepared)(x))
        assert_close(found[0], found[1], "half")
        assert not found[0].equal(plain(x))

    def test_settings_of_before_stay(self) -> None:
        model = mlp()
        model[0].qconfig = quantization.default_dynamic_qconfig
        shapeshift.compress(model, "60%")
        assert model[0].qconfig is quantization.default_dynamic_qconfig
        assert not hasattr(model[2], "qconfig")
        assert shapeshift.materialize(model)[0].qconfig is quantization.default_dynamic_qconfig


class Hub(nn.Module, PyTorchModelHubMixin):
    """A model that huggingface_hub saves and loads."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OwnHub(Hub):
    """One that saves itself in its own way."""

    def _save_pretrained(self, save_directory: Path) -> None:
        shapeshift.save(self, save_directory)


class TestHubMixin:
    def test_what_could_not_be_loaded_is_not_saved(self, tmp_path: Path) -> None:
        model, x = shapeshift.compress(Hub(), "60%"), torch.randn(2, 16)
        with pytest.raises(ModelError, match=r"Hub\.from_pretrained .* shapeshift\.save\(model, directory\)"):
            model.save_pretrained(tmp_path / "compressed")
        shapeshift.save(model, tmp_path / "saved")
        assert_close(shapeshift.load(tmp_path / "saved", Hub())(x), model(x), "identical")
        shapeshift.materialize(copy.deepcopy(model)).save_pretrained(tmp_path / "plain")
        assert_close(Hub.from_pretrained(tmp_path / "plain")(x), model(x), "reordered")

    def test_a_class_may_save_in_its_own_way(self, tmp_path: Path) -> None:
        model, x = shapeshift.compress(OwnHub(), "60%"), torch.randn(2, 16)
        model.save_pretrained(tmp_path)
        assert_close(shapeshift.load(tmp_path, OwnHub())(x), model(x), "identical")
