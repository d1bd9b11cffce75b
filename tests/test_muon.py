"""Muon on generated weights: as torch's where nothing is shared, and the mean of what readers ask for where it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import ConfigError, ModelError
from shapeshift.generators import GENERATORS
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.muon import orthogonal
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import gradients, mlp
from tests.tolerances import assert_close

MIXED = [name for name in GENERATORS if issubclass(GENERATORS[name], MixedGenerator)]


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 12))


def unshared(combine: str) -> tuple[nn.Module, nn.Module]:
    """Build a plain model and one of the same weights, each of which has entries of its own in one store."""
    plain = layers()
    model = shapeshift.compress(copy.deepcopy(plain), 1.0, combine=combine, max_templates=1, init="random")
    (group,) = require_shared(model).generators()
    with torch.no_grad():
        group.gains.fill_(1.0)
        wanted = [layer.weight for layer in plain if isinstance(layer, nn.Linear)]
        values = group.generate(range(3))
        found = torch.autograd.grad
        with torch.enable_grad():
            made = group.generate(range(3))
            placed = found(made, list(group.store), wanted)  # the adjoint of a permutation with signs is its inverse
        for piece, value in zip(group.store, placed, strict=True):
            piece.copy_(value)
    assert len(values) == 3
    return plain, model


@pytest.mark.parametrize("combine", ["rr", "wavg", "ring"])
@pytest.mark.parametrize("options", [{}, {"nesterov": False, "momentum": 0.8}, {"adjust_lr_fn": "match_rms_adamw"}])
def test_steps_equal_those_of_torch_where_nothing_is_shared(combine: str, options: dict[str, Any]) -> None:
    plain, model = unshared(combine)
    weights = [layer.weight for layer in plain if isinstance(layer, nn.Linear)]
    biases = [layer.bias for layer in plain if isinstance(layer, nn.Linear)]
    expected = [
        torch.optim.Muon(weights, lr=0.02, weight_decay=0.1, **options),
        torch.optim.AdamW(biases, lr=0.01, weight_decay=0.0),
    ]
    optimizer = shapeshift.Muon(model, lr=0.02, weight_decay=0.1, adamw_lr=0.01, **options)
    for _ in range(4):
        x = torch.randn(8, 16)
        for one in (plain, model):
            one.zero_grad()
            one(x).square().sum().backward()
        for one in (*expected, optimizer):
            one.step()
    for index in (0, 2, 4):
        assert_close(model[index].weight.detach() + 0, plain[index].weight, "moved")
        assert_close(model[index].bias, plain[index].bias, "moved")


def test_plain_models_train_as_under_torch() -> None:
    plain, other = layers(), layers()
    expected = torch.optim.Muon([layer.weight for layer in plain if isinstance(layer, nn.Linear)], lr=0.02)
    optimizer = shapeshift.Muon(other, lr=0.02)
    for one in (plain, other):
        one(torch.ones(8, 16)).square().sum().backward()
    expected.step()
    optimizer.step()
    assert_close(other[0].weight, plain[0].weight, "moved")


def test_weights_that_share_all_their_entries_move_by_the_mean() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    model = shapeshift.compress(model, 0.5, combine="rr")
    (group,) = require_shared(model).generators()
    with torch.no_grad():
        group.gains.copy_(torch.tensor([1.0, -2.0]))
    optimizer = shapeshift.Muon(model, lr=0.1, weight_decay=0.0, momentum=0.0)
    (store,) = group.store
    before = store.detach().clone()
    store.grad = torch.randn_like(store)
    optimizer.step()
    asked = [orthogonal(store.grad.view(16, 16) * gain).float() * gain for gain in (1.0, -2.0)]
    assert_close(before - store.detach(), 0.1 * sum(asked).view(-1, 1) / (1.0 + 4.0), "reordered")


@pytest.mark.parametrize("combine", MIXED)
@pytest.mark.parametrize("budget", [0.3, 1.0, 2.5])
def test_no_weight_moves_further_than_a_plain_one(combine: str, budget: float) -> None:
    model = compressed(mlp(16, 3), budget, combine=combine)
    groups = list(require_shared(model).generators())
    before = [weight.detach().clone() for group in groups for weight in group.generate(range(len(group.weights)))]
    gradients(model, (torch.randn(8, 16),))
    optimizer = shapeshift.Muon(model, lr=0.01, weight_decay=0.0, adamw_lr=0.0 + 1e-12)
    optimizer.step()
    after = [weight.detach() for group in groups for weight in group.generate(range(len(group.weights)))]
    moved = sum((new - old).square().sum() for new, old in zip(after, before, strict=True)).sqrt()
    asked = sum((0.01 * 1.25) ** 2 * max(1.0, len(old) / old.shape[1]) * min(old.shape) for old in before) ** 0.5
    assert 0 < moved <= asked


@pytest.mark.parametrize("combine", list(GENERATORS))
def test_training_lowers_the_loss_and_goes_on_from_a_state(combine: str) -> None:
    torch.manual_seed(0)
    model = compressed(mlp(16, 3), 0.5, combine=combine)
    x = torch.randn(64, 16)
    y = torch.randn_like(model(x))

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            losses.append((model(x) - y).square().mean())
            losses[-1].backward()
            optimizer.step()
        return losses

    optimizer = shapeshift.Muon(model, lr=0.01)
    losses = train(model, optimizer, 12)
    assert losses[-1] < losses[0]

    twin = copy.deepcopy(model)
    other = shapeshift.Muon(twin, lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_close(train(twin, other, 3), train(model, optimizer, 3), "identical")


def test_schedulers_and_closures() -> None:
    model = compressed(mlp(16, 3), 0.5)
    optimizer = shapeshift.Muon(model, lr=0.1, adamw_lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = copy.deepcopy(model.state_dict())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 16)).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(scheduler.base_lrs)
    assert_close(dict(model.state_dict()), dict(before), "identical")


def test_embeddings_are_for_adamw() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 16))

    with pytest.raises(ModelError, match=r"0\.weight is an embedding.*exclude=\['0\.weight'\]"):
        shapeshift.Muon(shapeshift.compress(build(), 0.5))
    excluded = shapeshift.Muon(shapeshift.compress(build(), 0.7, exclude=["0.weight"]))
    assert [len(group["params"]) for group in excluded.param_groups] == [1, 1, 2]
    mapping = {"0.weight": "embeddings", "*": "rest"}
    model = shapeshift.compress(build(), 0.7, mapping=mapping)
    apart = shapeshift.Muon(model)
    assert apart.param_groups[0]["params"] == list(model.shapeshift["rest"].store)


def test_frozen_weights_and_stores_stay() -> None:
    model = compressed(mlp(16, 3), 0.5)
    gradients(model, (torch.randn(4, 16),))
    optimizer = shapeshift.Muon(model, lr=0.1)
    (store,) = require_shared(model)["all"].store
    before = store.detach().clone()
    store.grad = None
    optimizer.step()
    assert store.detach().equal(before)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"momentum": -0.1}, {"adjust_lr_fn": "none"}])
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        shapeshift.Muon(layers(), **options)
