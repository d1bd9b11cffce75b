"""Templates in another order, or with other signs, in each weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.baselines.scrambled_templates import scrambled
from benchmarks.experiments.networks import Training, WideNetwork, compressed
from shapeshift.experiments.data import DATASETS
from shapeshift.experiments.training import Recipe
from tests.tolerances import assert_close

NETWORK = WideNetwork(10, 0.25)


@pytest.fixture(scope="module")
def training() -> Training:
    data, _ = DATASETS["digits"](None, train=20)
    return Training(data, Recipe(), 0, "cpu")


def build(training: Training, way: dict[str, bool] | None) -> nn.Module:
    torch.manual_seed(0)
    if way is None:
        return compressed(NETWORK, "200%", training)
    return scrambled(NETWORK, "200%", training, **way)


def test_templates_in_their_own_order_make_the_same_weights(training: Training) -> None:
    plain = build(training, None)
    same = build(training, {"permuted": False, "signed": False})
    for layer, twin in zip(plain.modules(), same.modules(), strict=True):
        if isinstance(layer, nn.Conv2d):
            assert_close(twin.weight, layer.weight, "reordered")


@pytest.mark.parametrize("way", [(True, False), (False, True), (True, True)])
def test_other_orders_and_signs_keep_the_deviation_and_train_every_entry(
    way: tuple[bool, bool], training: Training
) -> None:
    plain, model = build(training, None), build(training, {"permuted": way[0], "signed": way[1]})
    for layer, twin in zip(plain.modules(), model.modules(), strict=True):
        if isinstance(layer, nn.Conv2d):
            assert not torch.equal(twin.weight, layer.weight)
            assert_close(twin.weight.std(), layer.weight.std(), "starting deviation")
    inputs = training.data.inputs
    with torch.inference_mode():
        evaluated = model(inputs)
    assert_close(model(inputs), evaluated, "reordered")
    model(inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        if "store" in name:
            assert parameter.grad is not None
            assert (parameter.grad != 0).float().mean() > 0.9
