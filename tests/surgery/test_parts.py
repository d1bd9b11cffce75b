"""Parts of a compressed model are chosen, frozen and trained as those of the dense model, or refuse and say how."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm.utils
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

import shapeshift
from shapeshift import GeneratedWeightError, ModelError
from tests.tolerances import assert_close

SEPARATE = {"backbone": "backbone", "*": "rest"}


class Classifier(nn.Module):
    """A backbone and a head."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        layers = [nn.Linear(16, 16, bias=bias), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16, bias=bias), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.backbone(x))
        return scores


class Tied(nn.Module):
    """An encoder whose embedding is the decoder's output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 20))
        self.decoder[1].weight = self.encoder[0].weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.decoder(self.encoder(x))
        return scores


def build(mapping: Any = "single", bias: bool = True) -> Classifier:
    torch.manual_seed(0)
    return shapeshift.compress(Classifier(bias), "60%", mapping=mapping)


def weights(model: Classifier) -> dict[str, Tensor]:
    layers = {"backbone": model.backbone[0], "head": model.head}
    return {name: layer.weight.detach().clone() for name, layer in layers.items()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    x = torch.linspace(-1, 1, 8 * 16).view(8, 16)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def mapping_in(error: pytest.ExceptionInfo[Any]) -> dict[str, str]:
    """Return the mapping that an error names."""
    found = re.search(r"mapping=(\{.*?\})", str(error.value))
    assert found is not None
    mapping: dict[str, str] = ast.literal_eval(found[1])
    return mapping


def test_a_part_lists_the_parameters_of_its_own_group_and_the_model_lists_each_once() -> None:
    model = build(SEPARATE)
    names = [name for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names) == len(set(model.parameters()))
    own = set(model.shapeshift["backbone"].parameters())
    assert own < set(model.backbone.parameters())
    assert own.isdisjoint(model.head.parameters())
    assert dict(model.backbone.named_parameters(prefix="backbone")).keys() >= {"backbone.shapeshift.backbone.store.0"}
    assert own.isdisjoint(model.backbone.parameters(recurse=False))
    assert list(model.backbone.state_dict()) == ["0.bias", "1.weight", "1.bias", "3.bias"]
    assert len(list(build().backbone.parameters())) == 4


CHOICES: dict[str, Callable[[Classifier], list[list[nn.Parameter]]]] = {
    "parts": lambda model: [list(model.backbone.parameters()), list(model.head.parameters())],
    "groups": lambda model: [
        [p for group in shapeshift.parameter_groups(part, 0.0) for p in group["params"]]
        for part in (model.backbone, model.head)
    ],
    "a part in a name": lambda model: [
        [p for name, p in model.named_parameters() if ("backbone" in name) == chosen] for chosen in (True, False)
    ],
}


@pytest.mark.parametrize("choice", CHOICES)
def test_parts_train_at_their_own_rates(choice: str) -> None:
    model = build(SEPARATE)
    backbone, head = CHOICES[choice](model)
    optimizer = torch.optim.SGD([{"params": backbone, "lr": 0.01}, {"params": head}], lr=0.1)
    stores = {name: model.shapeshift[name].store[0] for name in ("backbone", "rest")}
    before = {name: store.detach().clone() for name, store in stores.items()}
    train(model, optimizer, steps=1)
    for name, rate in (("backbone", 0.01), ("rest", 0.1)):
        assert stores[name].grad is not None
        assert_close(stores[name].detach(), before[name] - rate * stores[name].grad, "reordered")


def freeze_in_a_loop(part: Iterable[nn.Parameter], requires_grad: bool) -> None:
    for parameter in part:
        parameter.requires_grad = requires_grad


FREEZING: dict[str, Callable[[Classifier], object]] = {
    "call": lambda model: model.backbone.requires_grad_(False),
    "loop": lambda model: freeze_in_a_loop(model.backbone.parameters(), False),
    "timm": lambda model: timm.utils.freeze(model, "backbone"),
    "slice": lambda model: model.backbone[:4].requires_grad_(False),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", FREEZING)
def test_a_frozen_part_stays_as_it_is(way: str, bias: bool) -> None:
    model = build(SEPARATE, bias)
    FREEZING[way](model)
    assert not model.backbone[0].weight.requires_grad
    assert model.head.weight.requires_grad
    before = weights(model)
    train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
    after = weights(model)
    assert after["backbone"].equal(before["backbone"])
    assert not after["head"].equal(before["head"])
    model.backbone.requires_grad_(True)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert not weights(model)["backbone"].equal(before["backbone"])


def test_a_part_that_shares_its_store_is_not_frozen_alone() -> None:
    model = build()
    with pytest.raises(GeneratedWeightError, match=r"backbone\.0\.weight \(16, 16\).*head\.weight \(4, 16\)") as error:
        model.backbone.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert mapping_in(error) == SEPARATE
    model.requires_grad_(False)
    model.backbone.requires_grad_(False)
    with pytest.raises(GeneratedWeightError) as error:  # a linear probe
        model.head.requires_grad_(True)
    assert mapping_in(error) == {"head": "head", "*": "rest"}


def test_a_part_that_shares_its_store_has_no_groups_of_its_own() -> None:
    model = build()
    with pytest.raises(ModelError, match="Linear is a part of a compressed model that shares parameters") as error:
        shapeshift.parameter_groups(model.head, 0.1)
    model = build(mapping_in(error))
    decayed, _ = shapeshift.parameter_groups(model.head, 0.1)
    assert decayed["params"] == [model.shapeshift["head"].store[0]]
    model.shapeshift["rest"].requires_grad_(False)
    assert shapeshift.parameter_groups(model.backbone, 0.1)[0]["params"] == []


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (lambda model: model.encoder, {"encoder": "part", "decoder.1": "part", "*": "rest"}),
        (lambda model: model.decoder[:1], {"decoder.0": "decoder_0", "*": "rest"}),
        (lambda model: model.decoder[1], {"encoder.0": "part", "decoder.1": "part", "*": "rest"}),
    ],
)
def test_the_mapping_that_an_error_names_is_the_way_out(
    part: Callable[[nn.Module], nn.Module], expected: dict[str, str]
) -> None:
    model = shapeshift.compress(Tied(), 0.7)
    with pytest.raises(GeneratedWeightError) as error:
        part(model).requires_grad_(False)
    assert mapping_in(error) == expected
    model = shapeshift.compress(Tied(), 0.7, mapping=expected)
    part(model).requires_grad_(False)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and name.startswith("shapeshift.")}
    assert frozen == {f"shapeshift.{next(iter(expected.values()))}.store.0"}


def test_copies_are_parts_and_plain_models_are_not() -> None:
    model = build(SEPARATE)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again.backbone.requires_grad_(False)
        assert not again.shapeshift["backbone"].store[0].requires_grad
    assert model.shapeshift["backbone"].store[0].requires_grad
    shapeshift.materialize(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in Classifier().modules()]


def test_modules_of_a_fixed_class_are_left_alone() -> None:
    class Final(nn.Sequential):
        def __init_subclass__(cls) -> None:
            raise TypeError(f"{cls.__name__} is final")

    model = nn.ModuleDict({"final": Final(nn.Linear(8, 8)), "traced": symbolic_trace(nn.Sequential(nn.Linear(8, 8)))})
    kinds = [type(module) for module in model.values()]
    shapeshift.compress(model, 0.6)
    assert [type(module) for module in model.values()] == kinds


def test_a_module_that_is_listed_twice_is_one_part() -> None:
    model = build_listed_twice()
    shapeshift.compress(model, 0.6)
    copy.deepcopy(model).first.requires_grad_(False)
    assert type(shapeshift.materialize(model).first) is nn.Sequential


def build_listed_twice() -> Any:
    model = nn.Module()
    model.first = nn.Sequential(nn.Linear(8, 8))
    model.again = model.first
    return model
