"""Mappings that are learned from gradients: what is measured, what is joined, and what fits the budget."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift.mapping_search import GradientMapping, LearnedMapping, learn_mapping, learn_mapping_by_gradients
from shapeshift.mapping_search.clusters import agreeing_clusters, by_member, coarse_clusters
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.plan import budget_range
from shapeshift.superweights import Family, share_coefficients
from shapeshift.superweights.weight_gradients import gradient_similarity, weight_gradients
from shapeshift.surgery.roots import require_shared
from shapeshift.weights import find_weights
from tests.models import MixedDtypes, Residual
from tests.tolerances import assert_close


def data(count: int = 1024, batch: int = 128) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 6, 6, generator=generator)
    return list(zip(x.split(batch), (x.mean((1, 2, 3)) > 0).long().split(batch), strict=True))


def train_shortly(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for x, y in data(256, 32):
        outputs = model(x)
        optimizer.zero_grad()
        each = outputs if isinstance(outputs, list) else [outputs]
        torch.stack([F.cross_entropy(output, y) for output in each]).sum().backward()
        optimizer.step()


def matrix(size: int, **pairs: float) -> np.ndarray[Any, Any]:
    found = np.full((size, size), -0.5)
    for name, value in pairs.items():
        row, column = map(int, name.removeprefix("p").split("_"))
        found[row, column] = found[column, row] = value
    return found


def test_layers_are_joined_as_sets_so_that_a_weaker_pair_breaks_no_stronger_one_up() -> None:
    similar = matrix(4, p0_1=0.9, p1_2=0.2, p2_3=0.05)
    labels, matches = agreeing_clusters(similar, ["a"] * 4, [range(4)], 0.1)
    assert labels == [0, 0, 0, 1]
    assert matches == {}
    assert agreeing_clusters(similar, ["a"] * 4, [range(4)], 0.5)[0] == [0, 0, 1, 2]
    assert agreeing_clusters(similar, ["a"] * 4, [range(4)], -np.inf)[0] == [0, 0, 0, 0]
    # Clusters stay within the coarse ones, however similar the layers are.
    assert agreeing_clusters(similar, ["a", "b", "b", "b"], [range(4)], 0.1)[0] == [0, 1, 1, 2]


def test_layers_of_other_networks_join_the_one_that_is_most_similar_by_name_and_not_by_place() -> None:
    # Four layers of a deep network, and two of another: the first is like the second, the second like the last.
    similar = matrix(6, p0_1=0.6, p4_1=0.3, p4_3=0.1, p5_3=-0.1, p5_0=-0.2)
    labels, matches = agreeing_clusters(similar, ["a"] * 6, [[0, 1, 2, 3], [4, 5]], 0.5)
    assert matches == {4: 1, 5: 3}
    assert labels == [0, 0, 1, 2, 0, 2]
    # A coarse cluster in which the deep network has no layer is the other's own.
    labels, matches = agreeing_clusters(similar, [*"aaaa", *"ab"], [[0, 1, 2, 3], [4, 5]], 0.5)
    assert matches == {4: 1}
    assert labels == [0, 0, 1, 2, 0, 3]


def test_coarse_clusters_are_runs_of_layers_of_one_kind() -> None:
    model = nn.ModuleList([WideResNet(10, 0.5), WideResNet(28, 0.5)])
    weights = find_weights(model)
    names = [weight.name for weight in weights]
    members = by_member(names, ["0.", "1."])
    assert [names[found[0]] for found in members] == ["1.stem.weight", "0.stem.weight"]
    labels = dict(zip(names, coarse_clusters(weights, members, 4), strict=True))
    deep = [label for name, label in labels.items() if name.startswith("1.") and label.startswith("3x3")]
    assert deep == sorted(deep)
    assert [deep.count(f"3x3_{run}") for run in range(3)] == [9, 8, 8]
    assert {label for name, label in labels.items() if "shortcut" in name} == {"1x1_0"}
    assert {label for name, label in labels.items() if "head" in name} == {"linear_0"}
    short = [label for name, label in labels.items() if name.startswith("0.") and label.startswith("3x3")]
    assert [short.count(f"3x3_{run}") for run in range(3)] == [3, 2, 2]


def test_similarity_is_the_cosine_on_the_block_that_both_have() -> None:
    grads = {
        "a": torch.randn(4, 3, 3, 3),
        "b": torch.randn(6, 2, 3, 3),
        "c": torch.randn(4, 3, 1, 1),
        "d": torch.zeros(2, 2, 1, 1),
    }
    found = gradient_similarity(grads, list(grads))
    one, other = grads["a"][:4, :2].flatten(), grads["b"][:4, :2].flatten()
    assert found[0, 1] == found[1, 0] == pytest.approx(F.cosine_similarity(one, other, dim=0).item(), rel=1e-5)
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[0, 2])
    assert found[2, 3] == 0


@pytest.mark.parametrize("family", [False, True], ids=["network", "family"])
def test_gradients_are_those_of_each_assembled_weight_over_all_samples(family: bool) -> None:
    networks = [WideResNet(10, 0.5), WideResNet(10, 0.25)] if family else [WideResNet(10, 0.5)]
    model: nn.Module = Family(networks, 0.9, seed=0)
    if not family:
        model = shapeshift.compress(WideResNet(10, 0.5), 0.9, combine="superweights")
    share_coefficients(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = data(1200, 100)
    found = weight_gradients(model, batches)
    assert found.samples == 1000
    assert_close(dict(model.state_dict()), before, "identical")
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training

    plain = shapeshift.materialize(copy.deepcopy(model)).eval()
    x, y = (torch.cat(part)[:1000] for part in zip(*batches, strict=True))
    outputs = plain(x) if family else [plain(x)]
    torch.stack([F.cross_entropy(output, y) for output in outputs]).sum().backward()
    assert set(found.mean) == {w.name for group in require_shared(model).generators() for w in group.weights}
    for name, grad in found.mean.items():
        assert_close(grad, plain.get_parameter(name).grad, "reordered gradient")
    halves = {name: (found.halves[0][name] + found.halves[1][name]) / 2 for name in found.mean}
    assert_close(halves, dict(found.mean), "reordered gradient")


def test_too_few_samples_are_refused() -> None:
    model = shapeshift.compress(WideResNet(10, 0.25), 0.9, combine="superweights")
    with pytest.raises(shapeshift.DataError, match=r"holds 999 samples.*at least 1,000"):
        weight_gradients(model, data(999))
    assert weight_gradients(model, data(100, 50), samples=100).samples == 100
    with pytest.raises(shapeshift.ModelError, match=r"does not depend on stem\.weight"):
        weight_gradients(model, data(64), loss=lambda model, batch: model.head.weight.sum(), samples=64)
    with pytest.raises(shapeshift.ModelError, match="not finite"):
        weight_gradients(model, data(64), loss=lambda model, batch: model(batch[0]).sum() * np.inf, samples=64)


@pytest.fixture(scope="module")
def searched() -> tuple[list[nn.Module], GradientMapping]:
    torch.manual_seed(0)
    networks = [WideResNet(10, 0.25, num_classes=2), WideResNet(16, 0.5, num_classes=2)]
    seen: list[nn.Module] = []

    def train(family: nn.Module) -> None:
        group = require_shared(family).generators()[0]
        assert len(group.coefficient_index.unique()) < len(group.coefficient_index)  # coefficients are shared at first
        seen.append(family)
        train_shortly(family)

    mapping = learn_mapping_by_gradients(networks, "60%", train, data(), num_groups=3)
    assert isinstance(seen[0], Family)
    assert shapeshift.count_parameters(seen[0]) <= 0.6 * sum(map(shapeshift.count_parameters, networks))
    return networks, mapping


def test_a_mapping_of_a_family_fits_its_budget(searched: Any) -> None:
    networks, mapping = searched
    assert not any(shapeshift.is_compressed(network) for network in networks)
    allowed = 0.6 * sum(map(shapeshift.count_parameters, networks))
    least, _ = budget_range(Family(networks), shapeshift.Config(combine="superweights", mapping=mapping))
    assert least <= allowed
    assert mapping.samples == 1024
    assert 0 < mapping.spread < 1
    assert mapping.threshold <= 0.1
    # Its groups are what the similarities say, at a threshold that is no lower than it has to be.
    kinds = {name: networks_weight.dim() for name, networks_weight in Family(networks).named_parameters()}
    for layer, match in mapping.matches.items():
        assert layer.startswith("members.0.")
        assert match.startswith("members.1.")
        assert mapping[layer] == mapping[match]
        assert kinds[layer] == kinds[match]
    family = Family(copy.deepcopy(networks), "60%", mapping=mapping)
    assert share_coefficients(family, mapping.ties) > 0
    assert len({layer for tie in mapping.ties for layer in tie}) == sum(map(len, mapping.ties))
    assert all(output.isfinite().all() for output in family(torch.randn(2, 3, 6, 6)))


def test_it_can_be_read_saved_and_drawn(searched: Any, tmp_path: Path) -> None:
    _, mapping = searched
    mapping.save(tmp_path / "mapping.json")
    again = GradientMapping.load(tmp_path / "mapping.json")
    assert again == mapping
    assert np.array_equal(again.similarity, mapping.similarity, equal_nan=True)
    assert (again.threshold, again.samples, again.spread) == (mapping.threshold, mapping.samples, mapping.spread)
    assert (again.matches, str(again)) == (mapping.matches, str(mapping))
    text = str(mapping)
    assert f"joined above a cosine of {mapping.threshold:.2f} between gradients over 1,024 samples" in text
    assert all(text.count(f"\n{group} (") == 1 for group in set(mapping.values()))
    assert all(f"  {layer}" in text for layer in mapping)
    mapping.plot(tmp_path / "mapping.png")
    assert (tmp_path / "mapping.png").read_bytes()[:4] == b"\x89PNG"


def test_the_threshold_is_lowered_until_the_clusters_fit() -> None:
    torch.manual_seed(0)
    model = WideResNet(16, 0.5, num_classes=2)
    found = {}
    for budget in ("45%", "98%"):
        found[budget] = learn_mapping_by_gradients(
            model, budget, train_shortly, data(), num_groups=2, threshold=0.99, samples=512
        )
    tight, wide = found["45%"], found["98%"]
    assert tight.threshold < wide.threshold <= 0.99
    assert len(set(tight.values())) < len(set(wide.values()))
    for budget, mapping in found.items():
        config = shapeshift.Config(combine="superweights", mapping=mapping)
        least, _ = budget_range(model, config)
        assert least <= float(budget.rstrip("%")) / 100 * shapeshift.count_parameters(model)
        coarse = coarse_clusters(find_weights(model), [range(len(mapping))], 2)
        higher, _ = agreeing_clusters(mapping.similarity, coarse, [range(len(mapping))], mapping.threshold + 0.05)
        groups = {name: f"group{label}" for name, label in zip(mapping, higher, strict=True)}
        needed, _ = budget_range(model, shapeshift.Config(combine="superweights", mapping=groups))
        assert needed > float(budget.rstrip("%")) / 100 * shapeshift.count_parameters(model)


def test_kmeans_learns_a_mapping_of_a_family_as_well() -> None:
    torch.manual_seed(0)
    networks = [WideResNet(10, 0.25, num_classes=2), WideResNet(10, 0.5, num_classes=2)]
    mapping = learn_mapping(networks, "60%", train_shortly, num_groups=2)
    assert isinstance(mapping, LearnedMapping)
    assert set(mapping) == {weight.name for weight in find_weights(Family(networks))}


def test_layers_of_several_precisions_are_compared() -> None:
    batches = [(torch.randn(512, 8), torch.randint(16, (512,))) for _ in range(2)]
    mapping = learn_mapping_by_gradients(
        MixedDtypes(), "1.1x", lambda model: None, batches, num_groups=1, threshold=-1.0
    )
    assert set(mapping.values()) == {"group0"}
    assert not np.isnan(mapping.similarity).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 700}, shapeshift.BudgetError, r"cannot be learned with 700 parameters: the least for \d coarse"),
        ({"exclude": ["tail"]}, shapeshift.ConfigError, "'tail' matches no"),
    ],
)
def test_searches_that_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    trained: list[nn.Module] = []
    arguments = {"budget": 0.9, "train": trained.append, "data": data(), **options}
    with pytest.raises(error, match=message):
        learn_mapping_by_gradients(Residual(), **arguments)
    assert trained == []


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", '{"groups": {"a": "b"}, "similarity": [], "spread": null}'])
def test_a_file_that_holds_no_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "mapping.json").write_text(text)
    with pytest.raises(shapeshift.ConfigError):
        GradientMapping.load(tmp_path / "mapping.json")
