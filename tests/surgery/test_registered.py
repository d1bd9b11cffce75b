"""Layers that read shared parameters which their model does not hold."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift import ModelError, ShapeshiftWarning
from tests.models import gradients
from tests.tolerances import assert_close


class Stack(nn.Module):
    """Residual blocks under a head."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(depth))
        self.head = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + x
        return self.head(x)


def copied(model: Stack) -> None:
    model.blocks.append(copy.deepcopy(model.blocks[-1]))


def pickled(model: Stack) -> None:
    model.blocks.append(pickle.loads(pickle.dumps(model.blocks[-1])))


def foreign(model: Stack) -> None:
    model.blocks.append(shapeshift.compress(Stack(), "60%").blocks[0])


@pytest.mark.parametrize("add", [copied, pickled, foreign])
class TestAddedLayers:
    @pytest.mark.parametrize(
        "use",
        [
            lambda model, folder: shapeshift.save(model, folder),
            lambda model, _: model.state_dict(),
            lambda model, _: nn.Sequential(model, nn.Linear(16, 2)).state_dict(),
            lambda model, _: shapeshift.report(model),
            lambda model, _: shapeshift.parameter_groups(model, weight_decay=0.1),
        ],
        ids=["save", "state_dict", "state_dict of a wrapper", "report", "parameter_groups"],
    )
    def test_are_refused(
        self, add: Callable[[Stack], None], use: Callable[[nn.Module, Path], object], tmp_path: Path
    ) -> None:
        model = shapeshift.compress(Stack(), "60%")
        add(model)
        with pytest.raises(ModelError, match=r"blocks\.3\.0\.weight \(16, 16\) .* shapeshift\.materialize"):
            use(model, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_warn_when_the_model_is_trained(self, add: Callable[[Stack], None]) -> None:
        model, x = shapeshift.compress(Stack(), "60%"), torch.randn(2, 16)
        add(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with torch.no_grad():
                expected = model(x)
        with pytest.warns(ShapeshiftWarning, match="no optimizer trains them") as caught:
            found = model(x)
        assert_close(found, expected, "reordered")
        model(x)
        assert len(caught) == 1

    def test_train_after_materialize_as_in_the_dense_model(self, add: Callable[[Stack], None]) -> None:
        model, x = shapeshift.compress(Stack(), "60%"), torch.randn(2, 16)
        add(model)
        with torch.no_grad():
            expected = model(x)
        shapeshift.materialize(model)
        dense = Stack(4)
        dense.load_state_dict(model.state_dict())
        assert_close(model(x), expected, "reordered")
        assert_close(gradients(model, (x,)), gradients(dense, (x,)), "identical")


def test_a_plain_copy_trains_and_is_saved_as_in_the_dense_model(tmp_path: Path) -> None:
    model, x = shapeshift.compress(Stack(), "60%"), torch.randn(2, 16)
    with pytest.raises(ModelError, match=r"shapeshift\.materialize\(copy\.deepcopy\(part\)\)"):
        shapeshift.materialize(model.blocks[-1])
    model.blocks.append(shapeshift.materialize(copy.deepcopy(model.blocks[-1])))
    dense = shapeshift.materialize(copy.deepcopy(model))
    found, expected = gradients(model, (x,)), gradients(dense, (x,))
    assert_close(found["blocks.3.0.weight"], expected["blocks.3.0.weight"], "reordered gradient")
    shapeshift.save(model, tmp_path)
    assert_close(shapeshift.load(tmp_path, Stack(4))(x), model(x), "identical")


def test_a_layer_that_outlives_its_model_warns() -> None:
    layer = shapeshift.compress(Stack(), "60%").head
    with pytest.warns(ShapeshiftWarning, match=r"head\.weight \(16, 16\) is read by a layer"):
        layer(torch.randn(2, 16))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), copy.copy])
def test_copies_of_the_whole_model_are_complete(duplicate: Callable[[Stack], Stack]) -> None:
    model, x = shapeshift.compress(Stack(), "60%"), torch.randn(2, 16)
    twin = duplicate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(twin.blocks[0](x), model.blocks[0](x), "identical")
        twin.load_state_dict(model.state_dict())
    assert shapeshift.report(twin) == shapeshift.report(model)


def test_a_block_that_occurs_once_more_is_trained_and_not_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense, x = Stack(), torch.randn(2, 16)
    model = shapeshift.compress(copy.deepcopy(dense), "60%", seed=0)
    again = Stack()
    shapeshift.compress(again, "60%", seed=0).load_state_dict(model.state_dict())
    shapeshift.materialize(again)
    for found in (model, again):
        found.blocks.append(found.blocks[0])
    assert_close(model(x), again(x), "reordered")
    assert any(name.endswith("store.0") for name in gradients(model, (x,)))
    copy.deepcopy(model).load_state_dict(model.state_dict())
    with pytest.raises(ModelError, match=r"blocks\.3\.0\.weight .* put there since"):
        shapeshift.save(model, tmp_path)
