"""Optimizer groups for Muon."""

from __future__ import annotations

import pytest
import timm.optim
import torch
from torch import nn

import shapeshift


def build() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Embedding(10, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10)]
    return shapeshift.compress(nn.Sequential(*layers), "60%", exclude=["0", "1"])


def test_muon_gets_the_matrices_that_are_not_generated() -> None:
    model = build()
    matrices, decayed, spared = shapeshift.parameter_groups(model, 0.1, use_muon=True)
    assert matrices["params"] == [model[1].weight]
    assert decayed["params"] == [*model.shapeshift["all"].store, model[0].weight]
    assert spared["params"] == [layer.bias for layer in model[1:]]
    assert [group["use_muon"] for group in (matrices, decayed, spared)] == [True, False, False]
    assert [group["weight_decay"] for group in (matrices, decayed, spared)] == [0.1, 0.1, 0.0]


@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_a_step_of_muon_moves_the_store_as_adamw_does(kind: str) -> None:
    model = build()
    groups = shapeshift.parameter_groups(model, 0.0, use_muon=True)
    optimizers: list[torch.optim.Optimizer]
    if kind == "torch":
        optimizers = [torch.optim.Muon(groups[:1], lr=0.01), torch.optim.AdamW(groups[1:], lr=0.01)]
    else:
        optimizers = [timm.optim.Muon(groups, lr=0.01)]
    (store,) = model.shapeshift["all"].store
    before, weight = store.detach().clone(), model[1].weight.detach().clone()
    model(torch.arange(10)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert (store.detach() - before).abs().median().item() == pytest.approx(0.01, rel=0.01)  # Adam's first step
    assert not model[1].weight.detach().equal(weight)


def test_muon_has_an_empty_group_where_all_matrices_are_generated() -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), "60%")
    groups = shapeshift.parameter_groups(model, 0.1, use_muon=True)
    assert groups[0]["params"] == []
    torch.optim.Muon(groups[:1])
