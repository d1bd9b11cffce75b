"""Which layers share: by name, by hand, and learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift
from shapeshift import ConfigError
from shapeshift.compression import plan_compression
from shapeshift.experiments.data import DATASETS
from shapeshift.experiments.training import Recipe, train
from shapeshift.mappings import Assignment
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.plan import Plan, budget_range
from shapeshift.surgery.roots import require_shared
from tests.models import MixedDtypes, Residual, mlp


def groups_of(model: nn.Module) -> dict[str, list[str]]:
    plan = require_shared(model).plan
    return {group.name: [weight.name for weight in group.weights] for group in plan.groups}


BY_HAND: dict[str, Any] = {
    "dict": {"stem": "ends", "branches.*": "body", "head.weight": "ends"},
    "first match": {"branches.1": "body", "stem": "ends", "branches": "body", "*": "ends"},
    "list": ["ends", "body", "body", "body", "ends"],
    "tuple": ("ends", "body", "body", "body", "ends"),
    "function": lambda name: "body" if name.startswith("branches") else "ends",
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_groups_by_hand(kind: str) -> None:
    model = shapeshift.compress(Residual(), 0.6, mapping=BY_HAND[kind])
    branches = [f"branches.{index}.2.weight" for index in range(3)]
    assert groups_of(model) == {"ends": ["stem.weight", "head.weight"], "body": branches}


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_plan_by_hand_is_written_down(kind: str, tmp_path: Path) -> None:
    model = shapeshift.compress(Residual(), 0.6, mapping=BY_HAND[kind])
    plan = require_shared(model).plan
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    shapeshift.save(model, tmp_path)
    assert groups_of(shapeshift.load(tmp_path, Residual())) == groups_of(model)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"stem": "a"}, r"says nothing about branches\.0\.2\.weight.*\"\*\""),
        ({"stam": "a", "*": "b"}, "'stam' matches no weight that is generated.*did you mean 'stem'"),
        ({"stem": 3, "*": "b"}, "names of groups, not 'stem' to 3"),
        (["a", "b"], "2 groups for 5 weights, which are: stem.weight"),
        (7, "a name, a dict, a list or a function, not 7"),
        ("learned", "unknown mapping 'learned'; choose one of: random, shape, single"),
        (
            {"*": "rest", "stem": "first"},
            "'stem' has no effect.*such as stem.weight in the group 'rest'.*'stem' in front",
        ),
        ({"branches": "a", "branches.1": "b", "*": "c"}, "'branches.1' has no effect"),
        ({"stem": "a.b", "head": "a_b", "*": "c"}, "'a.b' and 'a_b' would both be the group 'a_b'"),
    ],
)
def test_mappings_that_cannot_be(mapping: Any, message: str) -> None:
    model = Residual()
    keys = list(model.state_dict())
    with pytest.raises(shapeshift.ConfigError, match=message):
        shapeshift.compress(model, 0.6, mapping=mapping)
    assert list(model.state_dict()) == keys


def test_groups_may_be_called_anything() -> None:
    mapping = {"stem": "keys", "head": "", "*": "plan.b"}
    with pytest.raises(shapeshift.ConfigError, match="not 'head' to ''"):
        shapeshift.compress(Residual(), 0.6, mapping=mapping)
    model = shapeshift.compress(Residual(), 0.6, mapping={**mapping, "head": "parameters"})
    assert set(groups_of(model)) == {"group_keys", "group_parameters", "plan_b"}
    model(torch.randn(2, 3, 5, 5)).sum().backward()


def test_groups_may_be_called_as_what_holds_them_is() -> None:
    labels = dir(require_shared(shapeshift.compress(Residual(), 0.6)))
    for label in labels:
        if label.startswith("___"):  # the compiler's own, once something was compiled
            continue
        model = shapeshift.compress(Residual(), 0.6, mapping=lambda name, label=label: label)
        assert set(groups_of(model)) == {label if label == "all" else f"group_{label}"}
        model(torch.randn(2, 3, 5, 5)).sum().backward()


def test_the_order_of_a_mapping_counts() -> None:
    first, second = Assignment({"0": "x", "*": "y"}), Assignment({"*": "y", "0": "x"})
    assert first != second
    assert first == Assignment(dict(first)) == dict(first)
    assert hash(first) == hash(Assignment(dict(first)))


def test_a_function_is_no_part_of_a_config_that_is_written_down() -> None:
    with pytest.raises(shapeshift.ConfigError, match="function cannot be saved"):
        shapeshift.Config(mapping=lambda name: name).to_dict()


def test_chance_is_seeded() -> None:
    found = [
        groups_of(shapeshift.compress(mlp(depth=12), 0.6, mapping="random", num_groups=3, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 3


@pytest.mark.parametrize("budget", [0.3, 0.6, 2.5])
def test_a_group_of_one_layer_gets_its_own_weight(budget: float) -> None:
    model = WideResNet(16, 1)
    mapping = {"stem": "stem", "head": "head", "*": "rest"}
    plan = shapeshift.plan_compression(model, budget, mapping=mapping)
    sizes = {group.name: group.layout.store_size for group in plan.groups}
    assert sizes["stem"] == model.stem.weight.numel()
    assert sizes["head"] == model.head.weight.numel()
    assert 0.99 * plan.budget <= plan.total <= plan.budget


def test_where_budgets_are_small_the_large_layer_goes_without() -> None:
    plan = shapeshift.plan_compression(WideResNet(16, 1), 6000, mapping="shape")
    sizes = {group.name: (group.layout.store_size, sum(w.numel for w in group.weights)) for group in plan.groups}
    assert sizes["16x3x3x3"][0] == 432
    shares = [store / dense for store, dense in sizes.values() if store < dense]
    assert max(shares) < 1.5 * min(shares)


def test_budgets_are_split_in_proportion_to_sizes() -> None:
    plan = shapeshift.plan_compression(
        WideResNet(16, 1), 0.5, mapping=lambda name: name.split(".")[1] if "blocks" in name else "ends"
    )
    shares = [
        (group.layout.num_parameters / sum(weight.numel for weight in group.weights))
        for group in plan.groups
        if len(group.weights) > 1
    ]
    assert max(shares) < 1.05 * min(shares)


def train_shortly(model: nn.Module) -> None:
    train(model, DATASETS["digits"]()[0], Recipe(epochs=1, learning_rate=0.05), seed=0)


@pytest.fixture(scope="module")
def searched() -> tuple[nn.Module, dict[str, torch.Tensor], shapeshift.LearnedMapping]:
    torch.manual_seed(0)
    model = WideResNet(16, 0.25, in_channels=1, stem=8)
    before = copy.deepcopy(model.state_dict())
    return model, before, shapeshift.learn_mapping(model, "50%", train_shortly, num_groups=3)


def test_a_mapping_is_learned_without_touching_the_model(searched: Any) -> None:
    model, before, mapping = searched
    assert not shapeshift.is_compressed(model)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(mapping.values()) == {"group0", "group1", "group2"}
    assert len(set(mapping.coefficients.values())) > 3
    assert all(sum(shares) == pytest.approx(1) for shares in mapping.coefficients.values())


def test_layers_of_a_group_lie_closer_to_its_mean_than_to_others(searched: Any) -> None:
    _, _, mapping = searched
    rows = {layer: torch.tensor(shares, dtype=torch.float64) for layer, shares in mapping.coefficients.items()}
    means = {
        group: torch.stack([rows[layer] for layer in mapping if mapping[layer] == group]).mean(0)
        for group in set(mapping.values())
    }
    for layer, row in rows.items():
        assert min(means, key=lambda group: (row - means[group]).norm().item()) == mapping[layer]


def test_a_learned_mapping_is_what_compress_takes(searched: Any, tmp_path: Path) -> None:
    model, _, mapping = searched
    mapping.save(tmp_path / "mapping.json")
    again = shapeshift.LearnedMapping.load(tmp_path / "mapping.json")
    assert again == mapping
    assert again.coefficients == mapping.coefficients
    compressed = shapeshift.compress(copy.deepcopy(model), "50%", mapping=again)
    for name, layers in groups_of(compressed).items():
        assert {mapping[layer] for layer in layers} == {name}
    train_shortly(compressed)
    for group in set(mapping.values()):
        assert f"{group} (" in str(mapping)
    assert all(layer in str(mapping) for layer in mapping)
    mapping.plot(tmp_path / "mapping.png")
    assert (tmp_path / "mapping.png").read_bytes()[:4] == b"\x89PNG"


def test_a_budget_beyond_the_search_searches_at_the_most() -> None:
    seen: list[int] = []
    model = Residual()

    def record(candidate: nn.Module) -> None:
        seen.append(shapeshift.count_parameters(candidate))
        with torch.no_grad():
            for group in require_shared(candidate).generators():
                group.coefficients.normal_()

    shapeshift.learn_mapping(model, "4x", record, num_groups=2)
    config = shapeshift.Config(combine="softmax", max_templates=4)
    assert seen == [budget_range(model, config)[1]]


def test_layers_of_several_precisions_are_searched_together() -> None:
    def spread(candidate: nn.Module) -> None:
        with torch.no_grad():
            for number, group in enumerate(require_shared(candidate).generators()):
                group.coefficients.copy_(torch.arange(group.coefficients.numel()) * (number % 2))

    mapping = shapeshift.learn_mapping(MixedDtypes(), 0.7, spread, num_groups=2)
    assert dict(mapping) == {"once.weight": "group0", "twice.weight": "group1", "brain.weight": "group0"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_groups": 9}, shapeshift.ConfigError, "9 groups cannot be made of 5 layers"),
        ({"num_groups": 2}, shapeshift.ModelError, "left 1 distinct layers for 2 groups"),
        ({"budget": 70}, shapeshift.BudgetError, "cannot be learned with 70 parameters: the least is"),
        ({"num_templates": 1}, shapeshift.ConfigError, "two templates at least, not from 1"),
        ({"exclude": ["tail"]}, shapeshift.ConfigError, "'tail' matches no"),
        ({"combine": "avg"}, TypeError, "unexpected keyword argument 'combine'"),
    ],
)
def test_searches_that_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shapeshift.learn_mapping(Residual(), **{"budget": 0.6, "train": lambda model: None, **options})


def test_a_compressed_model_is_not_searched() -> None:
    with pytest.raises(shapeshift.ModelError, match="is compressed already"):
        shapeshift.learn_mapping(shapeshift.compress(Residual(), 0.6), 0.6, lambda model: None, num_groups=2)


def test_a_search_that_diverged_is_refused() -> None:
    def diverge(candidate: nn.Module) -> None:
        for parameter in candidate.parameters():
            parameter.data.fill_(float("nan"))

    with pytest.raises(shapeshift.ModelError, match="not finite"):
        shapeshift.learn_mapping(Residual(), 0.6, diverge, num_groups=2)


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", '{"groups": {"a": "b"}, "coefficients": {}}'])
def test_a_file_that_holds_no_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "mapping.json").write_text(text)
    with pytest.raises(shapeshift.ConfigError):
        shapeshift.LearnedMapping.load(tmp_path / "mapping.json")


def test_an_assignment_survives_its_file(tmp_path: Path) -> None:
    mapping = shapeshift.Assignment({"stem": "a", "*": "b"})
    mapping.save(tmp_path / "mapping.json")
    assert shapeshift.Assignment.load(tmp_path / "mapping.json") == mapping
    assert str(mapping) == "group  layer\na (1)  stem\nb (1)  *"
    (tmp_path / "mapping.json").write_text("[1]")
    with pytest.raises(shapeshift.ConfigError, match="does not hold a mapping from layers to groups: it is a list"):
        shapeshift.Assignment.load(tmp_path / "mapping.json")


def test_a_mapping_takes_every_name_of_a_tied_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    plan = plan_compression(model, 0.9, mapping={"2": "tied", "1": "alone"})
    assert {group.name: group.weights[0].name for group in plan.groups} == {"tied": "0.weight", "alone": "1.weight"}
    with pytest.raises(ConfigError, match="mapping: '2' matches no weight that is generated"):
        plan_compression(mlp(), 0.9, mapping={"2": "a", "*": "b"}, exclude=["2"])
