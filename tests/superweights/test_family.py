"""Families: networks of several sizes on one set of parameters, their predictions, and what these are worth."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import shapeshift
from benchmarks.experiments.families import NetworkFamily
from benchmarks.experiments.networks import Training, WideNetwork
from benchmarks.tables.families import COMPARISON as FAMILIES
from benchmarks.tables.families import FAMILY
from benchmarks.task import Task
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.superweights import Evaluation, Family, Scores, accuracy, anytime, disagreement, ece, evaluate, nll
from shapeshift.superweights.anytime import best_order
from shapeshift.surgery.roots import require_shared
from tests.models import mlp
from tests.tolerances import assert_close


def wide_resnets() -> list[nn.Module]:
    return [WideResNet(depth, width) for depth, width in ((16, 0.5), (16, 0.25), (10, 0.5), (10, 0.25))]


def resnets() -> list[nn.Module]:
    def build(layers: list[int], channels: list[int]) -> nn.Module:
        return timm.models.ResNet(
            timm.models.resnet.Bottleneck, layers, num_classes=5, channels=tuple(channels), stem_width=8
        )

    return [build([1, 2, 1, 1], [4, 8, 8, 16]), build([1, 1, 1, 1], [2, 4, 8, 8])]


def vision_transformers() -> list[nn.Module]:
    sizes = ((24, 3, 3), (16, 2, 2))
    return [
        timm.models.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=width, depth=depth, num_heads=heads, num_classes=5
        )
        for width, depth, heads in sizes
    ]


def transformers_with_logits() -> list[nn.Module]:
    configs = [
        ViTConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            num_labels=5,
        )
        for width in (16, 12)
    ]
    return [ViTForImageClassification(config) for config in configs]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "wide resnets": wide_resnets,
    "resnets": resnets,
    "vision transformers": vision_transformers,
    "transformers": transformers_with_logits,
}
every_kind = pytest.mark.parametrize("kind", NETWORKS)


def build(kind: str = "wide resnets", budget: Any = 0.8, **options: Any) -> Family:
    torch.manual_seed(0)
    return Family(NETWORKS[kind](), budget, **options)


def images(count: int = 4, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def labelled(count: int = 24, classes: int = 5) -> list[tuple[Tensor, Tensor]]:
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(4))
    return list(zip(images(count).split(8), labels.split(8), strict=True))


def logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)


@every_kind
@pytest.mark.parametrize("budget", [0.83, 0.5])
def test_members_share_one_budget_and_stay_the_networks_that_they_were(kind: str, budget: float) -> None:
    plain = NETWORKS[kind]()
    separate = sum(map(shapeshift.count_parameters, plain))
    family = Family(copy.deepcopy(plain), budget)
    parameters = list(family.parameters())
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    total = sum(parameter.numel() for parameter in parameters)
    assert 0.99 * int(budget * separate) <= total <= budget * separate
    x = images()
    for member, network in zip(family.members, plain, strict=True):
        assert isinstance(member, type(network))
        shapes = {name: weight.shape for name, weight in network.named_parameters()}
        for name, shape in shapes.items():
            path, _, leaf = name.rpartition(".")
            assert getattr(member.get_submodule(path), leaf).shape == shape
        assert logits(member(x)).shape == logits(network(x)).shape


@every_kind
def test_every_member_sends_gradients_to_the_shared_parameters(kind: str) -> None:
    family = build(kind)
    x = images()
    store = [(name, piece) for name, piece in require_shared(family).named_parameters() if "store" in name]
    for member in family.members:
        family.zero_grad()
        logits(member(x)).square().sum().backward()
        assert any(piece.grad.any() for _, piece in store)
        others = [
            name
            for other in family.members
            if other is not member
            for name, p in other.named_parameters()
            if p.grad is not None
        ]
        assert not others
    family.zero_grad()
    sum(logits(output).square().sum() for output in family(x)).backward()
    assert all(parameter.grad is not None for parameter in family.parameters())


@every_kind
def test_a_member_runs_alone_as_it_does_in_the_family(kind: str) -> None:
    family = build(kind).eval()
    x = images()
    together = family(x)
    for index, member in enumerate(family.members):
        assert_close(logits(member(x)), logits(together[index]), "identical")
        state = {name: tensor.clone() for name, tensor in family.state_dict().items()}
        alone = family.extract(index)
        assert_close(logits(alone(x)), logits(together[index]), "identical")
        assert not shapeshift.is_compressed(alone)
        assert list(alone.state_dict()) == list(NETWORKS[kind]()[index].state_dict())
        assert type(alone) is type(NETWORKS[kind]()[index])
        with torch.no_grad():
            for parameter in alone.parameters():
                parameter.zero_()
        assert_close(dict(family.state_dict()), state, "identical")
    assert len(pickle.dumps(family.extract(1))) < len(pickle.dumps(family.extract(0)))


def test_materializing_the_family_makes_an_ensemble_of_plain_networks() -> None:
    family = build().eval()
    x = images()
    expected = family.predict(x)
    assert shapeshift.materialize(family) is family
    assert type(family) is Family
    assert_close(family.predict(x), expected, "identical")
    assert shapeshift.count_parameters(family) == sum(map(shapeshift.count_parameters, wide_resnets()))


def test_the_checkpoint_is_one_file_of_the_budgets_size(tmp_path: Path) -> None:
    family = build(budget=0.5, exclude=["members.*.head"])
    family.choose_order(labelled())
    family.order.copy_(torch.tensor([2, 0, 3, 1]))
    family.eval()
    shapeshift.save(family, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    beside = sum(buffer.numel() * buffer.element_size() for buffer in family.buffers())
    assert file.stat().st_size < 4 * shapeshift.count_parameters(family) + beside + 40_000
    assert file.stat().st_size < 0.75 * sum(4 * shapeshift.count_parameters(network) for network in wide_resnets())
    torch.manual_seed(9)
    loaded = Family.load(tmp_path, wide_resnets()).eval()
    assert_close(loaded.predict(images()), family.predict(images()), "identical")
    assert loaded.order.tolist() == [2, 0, 3, 1]
    with pytest.raises(shapeshift.CheckpointError, match="another architecture"):
        Family.load(tmp_path, wide_resnets()[:3])


def test_the_same_seed_gives_the_same_family_and_the_same_training() -> None:
    def trained() -> list[Tensor]:
        family = build(seed=3)
        optimizer = torch.optim.SGD(shapeshift.parameter_groups(family, 1e-3), 0.05, momentum=0.9)
        for x, y in labelled():
            optimizer.zero_grad()
            torch.stack([F.cross_entropy(output, y) for output in family(x)]).sum().backward()
            optimizer.step()
        return list(family.parameters())

    assert_close(trained(), trained(), "identical")


def test_one_optimizer_and_the_sum_of_losses_train_all_members() -> None:
    torch.manual_seed(0)
    family = Family([WideResNet(10, 0.5), WideResNet(10, 0.25)], "60%", seed=0)
    x, y = images(16, 8), torch.arange(16) % 4
    optimizer = torch.optim.Adam(family.parameters(), 3e-3)
    first: list[float] = []
    for _ in range(25):
        losses = [F.cross_entropy(member(x), y) for member in family.members]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        first = first or [loss.item() for loss in losses]
    assert all(loss.item() < 0.5 * start for loss, start in zip(losses, first, strict=True))


def test_families_that_cannot_be() -> None:
    network = WideResNet(10, 0.25)
    with pytest.raises(shapeshift.ModelError, match="at least one network"):
        Family([], 0.5)
    with pytest.raises(shapeshift.ModelError, match="occurs twice"):
        Family([network, network], 0.5)
    with pytest.raises(shapeshift.ConfigError, match="without a budget"):
        Family([network], mapping="shape")
    with pytest.raises(shapeshift.BudgetError, match="the least for this model and config is"):
        Family([network, WideResNet(10, 0.5)], 0.05)
    assert not shapeshift.is_compressed(network)
    with pytest.raises(shapeshift.ModelError, match="is compressed already"):
        Family([shapeshift.compress(network, 0.9)], 0.5)


def test_a_prediction_is_the_mean_of_probabilities_and_leaves_the_mode_alone() -> None:
    family = build()
    family.members[1].eval()
    modes = [module.training for module in family.modules()]
    x = images()
    found = family.predict(x)
    assert [module.training for module in family.modules()] == modes
    family.eval()
    expected = sum(member(x).softmax(1) for member in family.members) / 4
    assert_close(found, expected, "reordered")
    assert not found.requires_grad
    hf = build("transformers")
    assert_close(hf.predict(pixel_values=images()).sum(1), torch.ones(4), "reordered")


def test_what_is_no_classifier_is_refused() -> None:
    family = Family([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])
    with pytest.raises(shapeshift.ModelError, match=r"logits of shape \(N, classes\).*not \(4, 4, 14, 14\)"):
        family.predict(images())


def test_members_of_other_classes_are_refused() -> None:
    family, x = Family([WideResNet(10, 0.25, 5), WideResNet(10, 0.5, 7)]), images()
    for predict in (
        lambda: family.predict(x),
        lambda: list(family.anytime(x)),
        lambda: evaluate(family, [(x, x[:, 0, 0, 0].long())]),
    ):
        with pytest.raises(shapeshift.ModelError, match=r"the members .*5.*7"):
            predict()


def test_generating_weights_is_not_counted() -> None:
    plain = Family(wide_resnets()).count_macs(images())
    for combine in ("emb", "hypernetwork"):
        assert Family(wide_resnets(), budget="83%", combine=combine).count_macs(images()) == plain


def averages(family: Family, x: Tensor) -> list[Tensor]:
    each = [family.members[index].eval()(x).softmax(1).detach() for index in family.order.tolist()]
    return [sum(each[:count]) / count for count in range(1, len(each) + 1)]


def test_anytime_yields_the_average_after_each_member_in_order() -> None:
    family = build()
    family.order.copy_(torch.tensor([3, 1, 0, 2]))
    x = images()
    found = list(family.anytime(x))
    assert_close(found, averages(family, x), "reordered")
    assert_close(found[-1], family.predict(x), "reordered")


def test_anytime_stops_at_the_multiply_accumulates_that_are_allowed() -> None:
    family = build()
    family.order.copy_(torch.tensor([3, 1, 0, 2]))
    x = images()
    macs = family.count_macs(x)
    assert len(set(macs)) == 4
    spent = list(itertools.accumulate(macs[index] for index in (3, 1, 0, 2)))
    for allowed, count in ((spent[0], 1), (spent[1] - 1, 1), (spent[1], 2), (spent[3], 4), (10 * spent[3], 4)):
        assert len(list(family.anytime(x, macs=allowed))) == count
    with pytest.raises(shapeshift.BudgetError, match=f"takes {spent[0]:,} multiply-accumulates"):
        family.anytime(x, macs=spent[0] - 1)


class Clock:
    """A clock that members move on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(nn.Module):
    """A classifier of a known duration in seconds."""

    def __init__(self, clock: Clock, seconds: float, width: int) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return self.layers(x)


def test_anytime_starts_no_member_that_would_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(anytime, "perf_counter", clock)
    # The last one takes far longer than its multiply-accumulates suggest.
    family = Family([Slow(clock, 0.01, 10), Slow(clock, 0.02, 20), Slow(clock, 1.0, 20)])
    x = torch.randn(2, 3, 2, 2)
    family.count_macs(x)
    assert len(list(family.anytime(x, budget_ms=5))) == 1  # the first one in any case
    assert len(list(family.anytime(x, budget_ms=29.9))) == 1
    assert len(list(family.anytime(x, budget_ms=31))) == 2
    for _ in range(2):  # nothing is known about the last one yet, and then no more than one run
        begin = clock.now
        assert len(list(family.anytime(x, budget_ms=51))) == 3
        assert clock.now - begin > 1
    begin = clock.now
    assert len(list(family.anytime(x, budget_ms=51))) == 2
    assert clock.now - begin == pytest.approx(0.03)
    # The time that the user takes between predictions counts.
    predictions = family.anytime(x, budget_ms=51)
    next(predictions)
    clock.now += 0.03
    assert list(predictions) == []


def test_one_slow_run_does_not_keep_a_member_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(anytime, "perf_counter", clock)
    family, x = Family([Slow(clock, 0.01, 10), Slow(clock, 0.02, 20)]), torch.randn(2, 3, 2, 2)
    for seconds in (3.0, 0.02, 0.02, 3.0, 0.02):
        family.members[1].seconds = seconds
        assert len(list(family.anytime(x, budget_ms=40))) == 2


def test_costs_on_other_shapes_are_counted_for_a_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    family = build()
    family.count_macs(torch.randn(2, 3, 8, 8))
    monkeypatch.setattr(Family, "extract", lambda *_: pytest.fail("counted"))
    assert len(list(family.anytime(torch.randn(2, 3, 12, 12)))) == len(family.members)


def test_networks_that_are_compressed_by_themselves_make_a_family_too() -> None:
    networks = [shapeshift.compress(WideResNet(10, width, in_channels=1), "50%") for width in (0.5, 0.25)]
    family, x = Family(networks), torch.randn(2, 1, 8, 8)
    assert len(list(family.anytime(x))) == 2
    alone = family.eval().extract(1)
    assert not shapeshift.is_compressed(alone)
    assert_close(alone(x), networks[1](x), "identical")


def test_samples_that_are_confident_are_left_to_the_members_so_far() -> None:
    family = build()
    with torch.no_grad():
        for member in family.members:
            member.head.bias[0] += 0.5
    x = images(8) * torch.linspace(0.1, 4, 8)[:, None, None, None]
    first, *_ = averages(family, x)
    confidence = first.amax(1).sort().values[3].item()
    family.count_macs(x)
    seen: list[int] = []
    family.members[1].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    found = list(family.anytime(x, confidence=confidence))
    assert seen == [int((first.amax(1) < confidence).sum())]
    assert 0 < seen[0] < 8
    sure = first.amax(1) >= confidence
    for later in found[1:]:
        assert_close(later[sure], first[sure], "reordered")
        assert_close(later.sum(1), torch.ones(8), "reordered")
    assert_close(found[1][~sure], averages(family, x)[1][~sure], "reordered")
    assert len(list(family.anytime(x, confidence=1e-6))) == 1


@pytest.mark.parametrize(
    "limit",
    [
        {"budget_ms": 0},
        {"budget_ms": math.nan},
        {"budget_ms": "5"},
        {"macs": -1},
        {"confidence": 0},
        {"confidence": 1.5},
    ],
    ids=str,
)
def test_limits_that_cannot_be(limit: dict[str, float]) -> None:
    with pytest.raises(shapeshift.ConfigError, match=f"{next(iter(limit))} must be a positive number"):
        build(budget=None).anytime(images(), **limit)


def test_the_order_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=generator)
    right = F.one_hot(labels, 4) * torch.tensor([1.0, 1.8, 1.4, 2.5])[:, None, None]
    probabilities = (right + torch.randn(4, 60, 4, generator=generator)).softmax(2)
    costs = [10, 25, 12, 60]

    def area(order: Sequence[int]) -> float:
        before = [math.log(4)] + [nll(probabilities[list(order[:count])].mean(0), labels) for count in range(1, 4)]
        return sum(loss * costs[index] for loss, index in zip(before, order, strict=True))

    best = best_order(probabilities, labels, costs)
    assert sorted(best) == [0, 1, 2, 3]
    assert area(best) == pytest.approx(min(map(area, itertools.permutations(range(4)))))
    with pytest.raises(shapeshift.ConfigError, match="up to 12 members, not 13"):
        best_order(probabilities[:1].expand(13, -1, -1), labels, [1] * 13)


def test_the_order_is_chosen_on_the_data_that_it_is_given() -> None:
    family = build()
    data = [(x, torch.full((len(x),), 2)) for x, _ in labelled()]
    with torch.no_grad():
        for index, member in enumerate(family.members):
            member.head.bias[2] += 4 * (index == 1)  # the one that is right
    order = family.choose_order(data)
    assert order[0] == 1
    assert family.order.tolist() == order


def test_metrics_are_those_that_are_counted_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.62, 0.38], [0.3, 0.7], [0.61, 0.39]])
    labels = torch.tensor([0, 1, 1, 0])
    assert accuracy(probabilities, labels) == 0.75
    expected = -sum(map(math.log, (0.9, 0.38, 0.7, 0.61))) / 4
    assert nll(probabilities, labels) == pytest.approx(expected, rel=1e-6)
    # 0.9 and 0.7 are alone in their bins of a fifteenth; 0.62 and 0.61 share one, in which half are right.
    gaps = (abs(1 - 0.9), abs(1 - 0.7), abs(1 - 0.62 - 0.61))
    assert ece(probabilities, labels) == pytest.approx(sum(gaps) / 4, rel=1e-6)
    assert ece(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0
    assert nll(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) > 80  # finite
    three = torch.stack([probabilities, probabilities.flip(1), probabilities])
    assert disagreement(three) == pytest.approx(2 / 3)
    assert math.isnan(disagreement(three[:1]))


def test_an_evaluation_measures_each_member_and_each_prefix(tmp_path: Path) -> None:
    family = build()
    family.order.copy_(torch.tensor([3, 1, 0, 2]))
    data = labelled()
    found = evaluate(family, data)
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    expected = averages(family, x)
    macs = family.count_macs(x)
    assert [scores.macs for scores in found.members] == macs
    assert [scores.macs for scores in found.curve] == list(itertools.accumulate(macs[index] for index in (3, 1, 0, 2)))
    for scores, probabilities in zip(found.curve, expected, strict=True):
        assert scores.nll == pytest.approx(nll(probabilities, y), rel=1e-4)
        assert scores.top1 == accuracy(probabilities, y)
    assert found.ensemble == found.curve[-1]
    assert found.parameters == shapeshift.count_parameters(family)
    assert found.samples == 24
    assert Scores(**json.loads(json.dumps(found.as_dict()))["curve"][0]) == found.curve[0]
    assert "first 4" in str(found)
    assert f"{found.parameters:,} parameters" in str(found)
    for metric in ("top1", "nll", "ece"):
        found.plot(tmp_path / f"{metric}.png", metric)
        assert (tmp_path / f"{metric}.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(shapeshift.ConfigError, match="metric must be one of top1, nll, ece"):
        found.plot(tmp_path / "none.png", "top5")
    one = evaluate(Family([WideResNet(10, 0.25)]), data)
    assert isinstance(one, Evaluation)
    assert math.isnan(one.disagreement)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the loader is empty"),
        ([images()], "has to yield \\(x, y\\)"),
        ([{"x": images()}], "found none in a dict"),
        ([(images(), torch.zeros(4))], "found a \\(4,\\) tensor of torch.float32"),
    ],
    ids=["empty", "no labels", "dict", "floats"],
)
def test_data_without_labels_is_refused(data: list[Any], message: str) -> None:
    with pytest.raises(shapeshift.DataError, match=message):
        evaluate(build(budget=None), data)


def test_dicts_with_labels_are_data_too() -> None:
    family = build("transformers")
    batch = {"pixel_values": images(), "labels": torch.tensor([0, 1, 2, 3])}
    tuples = [(images(), torch.tensor([0, 1, 2, 3]))]
    assert evaluate(family, [batch]).ensemble == evaluate(family, tuples).ensemble


def test_any_model_may_be_a_member() -> None:
    family = Family([mlp(16), mlp(12)], 0.9, seed=0)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        family(torch.randn(2, 16))
    assert family.members[0](torch.randn(2, 16)).shape == (2, 4)


def test_the_rows_of_the_benchmark_meet_their_budgets() -> None:
    data = Images(torch.randn(16, 1, 8, 8), torch.arange(16) % 10, num_classes=10)
    training = Training(data, Recipe(epochs=1, batch_size=16), seed=0, device="cpu")
    whole = shapeshift.count_parameters(FAMILY.build(data))
    sizes = {}
    for row in FAMILIES.rows:
        json.dumps(row.settings)
        model = row.build(row.network, row.budget, training, **row.options)
        sizes[row.key] = shapeshift.count_parameters(model)
        allowed = whole * int(row.budget.rstrip("%")) // 100 if row.budget else whole
        assert 0.97 * allowed < sizes[row.key] <= allowed, row.key
    assert len(sizes) == 7


def test_a_run_of_the_benchmark_measures_the_average_of_all_members() -> None:
    task = Task("digits", Recipe(epochs=2, batch_size=20, learning_rate=0.05), {"train": 300})
    row = next(row for row in FAMILIES.rows if row.method == "separate networks")
    small = replace(row, network=NetworkFamily((WideNetwork(10, 0.5), WideNetwork(10, 0.25))))
    found = FAMILIES.experiment.run(small, task, seed=0)
    assert set(found) == {"parameters", *(metric.name for metric in FAMILIES.experiment.metrics)}
    assert found["error"] < 60
    assert 0 < found["ece"] < 100
    assert 0 < found["disagreement"] < 100
    one = FAMILIES.experiment.run(replace(small, network=NetworkFamily((WideNetwork(10, 0.5),))), task, seed=0)
    assert one["disagreement"] == 0
    assert one["macs"] < found["macs"]
