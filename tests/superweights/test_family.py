"""Families: networks of several sizes on one set of parameters."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.superweights import Family, evaluate
from shapeshift.surgery.roots import require_shared
from tests.families import NETWORKS, build, every_kind, images, labelled, logits, wide_resnets
from tests.models import mlp
from tests.tolerances import assert_close


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
        refused = r"the members predict different numbers of classes, .*5.*7.*; an ensemble"
        with pytest.raises(shapeshift.ModelError, match=refused):
            predict()


def test_generating_weights_is_not_counted() -> None:
    plain = Family(wide_resnets()).count_macs(images())
    for combine in ("emb", "hypernetwork"):
        assert Family(wide_resnets(), budget="83%", combine=combine).count_macs(images()) == plain


def test_networks_that_are_compressed_by_themselves_make_a_family_too() -> None:
    networks = [shapeshift.compress(WideResNet(10, width, in_channels=1), "50%") for width in (0.5, 0.25)]
    family, x = Family(networks), torch.randn(2, 1, 8, 8)
    assert len(list(family.anytime(x))) == 2
    alone = family.eval().extract(1)
    assert not shapeshift.is_compressed(alone)
    assert_close(alone(x), networks[1](x), "identical")


def test_any_model_may_be_a_member() -> None:
    family = Family([mlp(16), mlp(12)], 0.9, seed=0)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        family(torch.randn(2, 16))
    assert family.members[0](torch.randn(2, 16)).shape == (2, 4)
