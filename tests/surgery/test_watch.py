"""A warning where shared parameters are not trained as the rest of the model is, and none elsewhere."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

import shapeshift
from shapeshift import ShapeshiftWarning
from shapeshift.surgery import watch
from tests.surgery.test_parts import SEPARATE, Classifier, build, freeze_in_a_loop, train

X = torch.linspace(-1, 1, 8 * 16).view(8, 16)


def warnings_of(action: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        action()
    assert all(warning.category is ShapeshiftWarning for warning in found)
    return [str(warning.message) for warning in found]


Ways = dict[str, Callable[[Classifier], list[dict[str, list[nn.Parameter]]]]]
LACKING: Ways = {
    "parts": lambda model: [{"params": list(part.parameters())} for part in (model.backbone, model.head)],
    "a part": lambda model: [{"params": list(model.head.parameters())}],
    "names": lambda model: [{"params": [p for n, p in model.named_parameters() if n.startswith(("back", "head"))]}],
    "types": lambda model: [
        {"params": [p for k in model.modules() if isinstance(k, nn.Linear) for p in k.parameters()]}
    ],
    "a slice": lambda model: [{"params": list(model.backbone[:2].parameters())}],
}


@pytest.mark.parametrize("way", LACKING)
def test_an_optimizer_that_lacks_the_shared_parameters(way: str) -> None:
    model = build()
    optimizer = SGD(LACKING[way](model), 0.1)
    assert warnings_of(lambda: train(model, optimizer, steps=1)) == []
    (message,) = warnings_of(lambda: train(model, optimizer, steps=5))
    assert "no optimizer has the parameters of shapeshift.all" in message
    assert ("mapping=" in message) == (way in ("a part", "a slice"))
    assert warnings_of(lambda: (model.eval(), model.train(), train(model, optimizer))) == []


def test_a_part_of_a_group_of_its_own_trains_without_a_warning() -> None:
    model = build(SEPARATE)
    for part in (model.head, model.backbone):
        train(model, SGD(part.parameters(), 0.1), steps=3)
        model.eval().train()


def test_an_optimizer_of_a_later_phase_is_looked_at() -> None:
    model = build()
    optimizer = SGD(model.parameters(), 0.1)
    optimizer.schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)  # type: ignore[attr-defined]  # a cycle
    train(model, optimizer)
    del optimizer
    model.eval()
    model.train()
    assert len(warnings_of(lambda: train(model, SGD(model.head.parameters(), 0.1)))) == 1


FREEZING: dict[str, Callable[[Classifier], object]] = {
    "loop": lambda model: freeze_in_a_loop(model.backbone.parameters(), False),
    "leaves": lambda model: [freeze_in_a_loop(k.parameters(recurse=False), False) for k in model.backbone.modules()],
    "names": lambda model: freeze_in_a_loop((p for n, p in model.named_parameters() if n.startswith("back")), False),
    "all but a name": lambda model: freeze_in_a_loop(
        (p for n, p in model.named_parameters() if "head" not in n), False
    ),
}


@pytest.mark.parametrize("way", FREEZING)
def test_a_part_that_is_frozen_by_its_list_of_parameters(way: str) -> None:
    model = build()
    FREEZING[way](model)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    (message,) = warnings_of(lambda: train(model, optimizer))
    mapping = {"head": "head", "*": "rest"} if way == "all but a name" else SEPARATE
    assert f"mapping={mapping!r}" in message


def test_frozen_layers_without_biases_are_seen_by_the_norms_beside_them() -> None:
    model = build(bias=False)
    freeze_in_a_loop(model.backbone.parameters(), False)
    (message,) = warnings_of(lambda: model(X))
    assert "backbone.0.weight (16, 16) were frozen" in message


def test_a_group_whose_layers_are_all_frozen() -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), 0.6)
    for layer in model[:2]:
        freeze_in_a_loop(layer.parameters(recurse=False), False)
    (message,) = warnings_of(lambda: model(X))
    assert "freeze model.shapeshift.all too" in message


def accumulate(model: Classifier) -> None:
    optimizer = SGD(model.parameters(), 0.1)
    for step in range(6):
        model(X).square().sum().backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


def average(model: Classifier) -> None:
    optimizer = SGD(model.parameters(), 0.1)
    averaged = AveragedModel(model)
    for _ in range(3):
        train(model, optimizer, 1)
        averaged.update_parameters(model)
        averaged(X)


def reload(model: Classifier) -> None:
    optimizer = SGD(model.parameters(), 0.1)
    state = copy.deepcopy(model.state_dict())
    plain = {name: value + 1 for name, value in state.items() if not name.startswith("shapeshift.")}
    for values in (state, plain):
        train(model, optimizer, 1)
        model.load_state_dict(values, strict=False)
        model.eval().train()
        model(X)


def reset_a_bias(model: Classifier) -> None:
    model(X)
    nn.init.zeros_(model.head.bias)
    model(X)
    train(model, SGD(model.parameters(), 0.1))


def alternate(model: Classifier) -> None:
    shared = list(model.shapeshift.parameters())
    parts = [SGD(shared, 0.1), SGD([p for name, p in model.named_parameters() if "shapeshift" not in name], 0.1)]
    for step in (1, 1, 1, 0, 1, 0):
        train(model, parts[step], 1)


def train_a_copy(model: Classifier) -> None:
    optimizer = SGD(model.parameters(), 0.1)
    train(model, optimizer)
    again = copy.deepcopy(model)
    train(again, SGD(again.parameters(), 0.1))


def skip_steps(model: Classifier) -> None:
    optimizer = SGD(model.parameters(), 0.1)
    for _ in range(3):
        model.train()
        model(X).square().sum().backward()
    train(model, optimizer)


def tune_biases(model: Classifier) -> None:
    freeze_in_a_loop((p for name, p in model.named_parameters() if "bias" not in name), False)
    train(model, SGD([p for p in model.parameters() if p.requires_grad], 0.1), 3)


def freeze_everything(model: Classifier) -> None:
    model.requires_grad_(False)
    model(X)


QUIET = [accumulate, average, reload, reset_a_bias, alternate, train_a_copy, skip_steps, tune_biases, freeze_everything]


@pytest.mark.parametrize("mapping", ["single", "shape"])
@pytest.mark.parametrize("case", QUIET, ids=lambda case: str(case.__name__))
def test_no_false_alarm(case: Callable[[Classifier], None], mapping: str) -> None:
    case(build(mapping))


def test_models_without_plain_parameters_are_quiet() -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)), 0.6)
    train(model, SGD(model.parameters(), 0.1), 3)
    model.requires_grad_(False)
    model(X)


def test_what_was_frozen_before_is_no_part_of_the_comparison() -> None:
    model = Classifier()
    freeze_in_a_loop((p for name, p in model.named_parameters() if "bias" in name or p.dim() == 1), False)
    shapeshift.compress(model, 0.6)
    train(model, SGD([p for p in model.parameters() if p.requires_grad], 0.1), 3)


def test_a_trained_model_has_nothing_more_to_look_at() -> None:
    model = build("shape")
    train(model, SGD(model.parameters(), 0.1), 2)
    assert not model.shapeshift._watch.is_due


def test_each_part_is_searched_once_however_many_weights_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[nn.Module] = []
    monkeypatch.setattr(watch, "_trainable", lambda module: searched.append(module) or [])  # type: ignore[func-returns-value]
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(4)))
    shapeshift.compress(model, "60%")
    assert len(searched) == len(set(searched)) == 8 + 4
