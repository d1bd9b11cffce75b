"""What holds for every generator with every format of its store."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift.generators import GENERATORS
from shapeshift.recompute import set_recompute
from shapeshift.store_format import STORE_FORMATS
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import MODELS, Residual, gradients
from tests.tolerances import assert_close

every_generator = pytest.mark.parametrize("combine", list(GENERATORS))
every_format = pytest.mark.parametrize("store", list(STORE_FORMATS))
rounding_formats = pytest.mark.parametrize("store", [name for name in STORE_FORMATS if name != "float32"])
INPUTS = MODELS["residual"].inputs()


def build(combine: str, store: str, budget: float = 0.7, **options: Any) -> nn.Module:
    torch.manual_seed(1)
    model = compressed(Residual(), budget, combine=combine, store=store, seed=3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def rounded(model: nn.Module) -> nn.Module:
    """Return a copy that keeps its stores as they are, rounded before."""
    twin = copy.deepcopy(model)
    for generator in require_shared(twin).generators():
        for name in generator.stored_names():
            with torch.no_grad():
                parameter = generator.get_parameter(name)
                parameter.copy_(generator.store_format.round(parameter))
        generator.store_format = STORE_FORMATS["float32"]
    return twin


@every_format
@every_generator
def test_weights_are_made_of_rounded_stores_and_gradients_pass_straight_through(combine: str, store: str) -> None:
    model = build(combine, store)
    twin = rounded(model)
    assert_close(model(*INPUTS), twin(*INPUTS), "identical")
    expected = gradients(twin, INPUTS)
    assert_close(gradients(model, INPUTS), expected, "identical")
    assert_close(gradients(set_recompute(model), INPUTS), expected, "identical")
    for group in require_shared(model).generators():
        names = group.stored_names()
        large = sum(group.get_parameter(name).numel() for name in names)
        assert large >= 0.5 * sum(parameter.numel() for parameter in group.parameters())


@rounding_formats
@every_generator
def test_copies_keep_the_format(combine: str, store: str) -> None:
    model = build(combine, store)
    expected = model(*INPUTS)
    other = build(combine, store, recompute=True)
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert_close(twin(*INPUTS), expected, "identical")
        assert_close(dict(twin.state_dict()), dict(model.state_dict()), "identical")
    assert_close(shapeshift.materialize(copy.deepcopy(model))(*INPUTS), expected, "identical")
    with torch.no_grad():
        assert_close(
            model.branches[0][2].weight.clone(), shapeshift.materialize(model).branches[0][2].weight, "identical"
        )
