"""State dicts carry the plan, and a model that shares in another way does not load them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.optim.swa_utils import AveragedModel

import shapeshift
from shapeshift import CheckpointError
from tests.methods import compressed, every_method
from tests.models import mlp
from tests.tolerances import assert_close


class Named(nn.Module):
    """Three layers, registered in a given order and run in that of the alphabet."""

    def __init__(self, order: str = "abc") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))
        for name in order:
            self.add_module(name, nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.c(self.b(self.a(x)))


def through_a_file(state: dict[str, Any], folder: Path) -> Any:
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def as_averaged(state: dict[str, Any], folder: Path) -> Any:
    renamed = AveragedModel(shapeshift.compress(Named(), "60%")).state_dict()
    consume_prefix_in_state_dict_if_present(renamed, "module.")
    del renamed["n_averaged"]
    return renamed


def rebuilt(state: dict[str, Any], folder: Path) -> Any:
    return dict(state.items())


CARRIES: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "itself": lambda state, _: state,
    "copied": lambda state, _: copy.deepcopy(state),
    "file": through_a_file,
    "wrapper": as_averaged,
    "rebuilt": rebuilt,
    "rebuilt and copied": lambda state, folder: copy.deepcopy(rebuilt(state, folder)),
    "rebuilt, in a file": lambda state, folder: through_a_file(rebuilt(state, folder), folder),
    "filtered": lambda state, _: {name: value for name, value in state.items() if "shapeshift" in name},
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("carry", CARRIES.values(), ids=list(CARRIES))
def test_that_of_other_registration_order_is_refused_and_changes_nothing(
    carry: Callable[[dict[str, Any], Path], Any], strict: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, other = shapeshift.compress(Named("abc"), "60%"), shapeshift.compress(Named("cba"), "60%")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=r"weight 1 of group all is a.weight .* and c.weight .* in the model"):
        other.load_state_dict(carry(model.state_dict(), tmp_path), strict=strict)
    assert_close(dict(other.state_dict()), dict(before), "identical")


def test_that_of_other_groups_of_equal_sizes_is_refused() -> None:
    model, other = mlp(depth=4), mlp(depth=4)
    names = [name for name, parameter in model.named_parameters() if parameter.dim() == 2 and parameter.numel() == 256]
    shapeshift.compress(model, "60%", include=names[:2], mapping={names[0]: "one", names[1]: "two"})
    shapeshift.compress(other, "60%", include=names[:2], mapping={names[0]: "two", names[1]: "one"})
    state = model.state_dict()
    with pytest.raises(CheckpointError, match="compress it as that model was"):
        other.load_state_dict(state)


def test_inside_of_a_larger_model_it_is_checked_too() -> None:
    model = nn.ModuleDict({"net": shapeshift.compress(Named("abc"), "60%"), "head": nn.Linear(16, 4)})
    other = nn.ModuleDict({"net": shapeshift.compress(Named("cba"), "60%"), "head": nn.Linear(16, 4)})
    with pytest.raises(CheckpointError, match="share in another way"):
        other.load_state_dict(model.state_dict())


@every_method
def test_that_of_a_model_compressed_alike_is_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    models = [compressed(mlp(), **({"seed": 1} | options)) for _ in range(2)]
    models[1].load_state_dict(through_a_file(models[0].state_dict(), tmp_path))
    x = torch.randn(2, 16)
    assert_close(models[1](x), models[0](x), "identical")


def test_it_has_no_further_entry_and_loads_without_the_plan(tmp_path: Path) -> None:
    model, x = shapeshift.compress(Named(), "60%"), torch.randn(2, 16)
    state = model.state_dict()
    assert list(state)[1:3] == ["shapeshift.all.gains", "shapeshift.all.store.0"]
    save_file(state, tmp_path / "state.safetensors")
    for older in ({name: tensor.clone() for name, tensor in state.items()}, load_file(tmp_path / "state.safetensors")):
        loaded = shapeshift.compress(Named(), "60%")
        loaded.load_state_dict(older)
        assert_close(loaded(x), model(x), "identical")


def test_a_state_dict_that_is_built_anew_inside_of_a_larger_model_is_checked_too() -> None:
    model = nn.ModuleDict({"net": shapeshift.compress(Named("abc"), "60%"), "head": nn.Linear(16, 4)})
    other = nn.ModuleDict({"net": shapeshift.compress(Named("cba"), "60%"), "head": nn.Linear(16, 4)})
    alike = nn.ModuleDict({"net": shapeshift.compress(Named("abc"), "60%"), "head": nn.Linear(16, 4)})
    state = dict(model.state_dict().items())
    with pytest.raises(CheckpointError, match="share in another way"):
        other.load_state_dict(state)
    alike.load_state_dict(state)
    x = torch.randn(2, 16)
    assert_close(alike["net"](x), model["net"](x), "identical")


def test_parameters_themselves_are_left_as_they_are() -> None:
    model = shapeshift.compress(Named(), "60%")
    state = model.state_dict(keep_vars=True)
    assert all(value is model.get_parameter(name) for name, value in state.items() if "store" in name)
    assert not any(vars(value) for value in state.values())


def test_entries_without_shared_parameters_are_loaded_into_any_model() -> None:
    model, other = shapeshift.compress(Named("abc"), "60%"), shapeshift.compress(Named("cba"), "60%")
    state = model.state_dict()
    for name in [name for name in state if name.startswith("shapeshift.")]:
        del state[name]
    other.load_state_dict(state, strict=False)
    assert_close(other.a.bias, model.a.bias, "identical")


def test_a_damaged_plan_is_refused() -> None:
    model, other = shapeshift.compress(Named(), "60%"), shapeshift.compress(Named(), "60%")
    state: Any = model.state_dict()
    state._metadata[""]["shapeshift_plan"] = "{"
    with pytest.raises(CheckpointError, match="plan cannot be read"):
        other.load_state_dict(state)
