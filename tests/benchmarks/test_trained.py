"""What fitting is compared with on trained networks: decompositions of each layer, and removed channels."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import shapeshift
from benchmarks.baselines.low_rank import factorise
from benchmarks.baselines.magnitude_pruning import prune_by_magnitude
from benchmarks.experiments import pretraining
from benchmarks.experiments.classification import BEFORE, ERROR, ImageClassification
from benchmarks.experiments.networks import Network, Training, WideNetwork
from benchmarks.experiments.pretraining import pretrained, share_in
from benchmarks.experiments.texts import Bert, TextClassification
from benchmarks.experiments.trained import fitted
from benchmarks.row import Row
from benchmarks.task import Task
from shapeshift.errors import BudgetError
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe
from shapeshift.networks.wide_resnet import WideResNet
from tests.tolerances import assert_close

TEXTS = TextClassification()


def convolutional() -> tuple[nn.Module, torch.Tensor]:
    return WideResNet(10, 0.5, in_channels=1).eval(), torch.randn(2, 1, 8, 8)


def textual() -> tuple[nn.Module, torch.Tensor]:
    data, _ = TEXTS.load(TEXTS.task("python_text", "cpu"))
    return Bert(2, 32).build(data).eval(), data.tokens[:2]


MODELS = {"convolutions": convolutional, "text": textual}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", ["decomposed", "pruned"])
def test_models_come_down_to_a_budget_and_are_used_as_before(name: str, make: str) -> None:
    model, inputs = MODELS[name]()
    size, before = shapeshift.count_parameters(model), model(inputs)
    for share in (0.5, 0.25):
        budget = int(share * size)
        if make == "decomposed":
            smaller = factorise(copy.deepcopy(model), budget)
        else:
            smaller = prune_by_magnitude(model, inputs, budget)
        assert 0.8 * budget < shapeshift.count_parameters(smaller) <= budget
        assert smaller(inputs).shape == before.shape
        smaller(inputs).sum().backward()
    assert shapeshift.count_parameters(model) == size
    assert torch.equal(model(inputs), before)


@pytest.mark.parametrize("layer", [nn.Linear(12, 8), nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Embedding(30, 8)])
def test_a_layer_of_low_rank_is_decomposed_without_loss(layer: nn.Module) -> None:
    weight = layer.weight
    with torch.no_grad():
        flat = weight.flatten(1)
        weight.copy_((torch.randn(len(flat), 2) @ torch.randn(2, flat.shape[1])).reshape(weight.shape))
    x = torch.randn(2, 3, 9, 9) if isinstance(layer, nn.Conv2d) else torch.randn(4, 12)
    x = torch.arange(30) if isinstance(layer, nn.Embedding) else x
    rank_two = 2 * (len(flat) + flat.shape[1]) + (8 if getattr(layer, "bias", None) is not None else 0)
    decomposed = factorise(nn.Sequential(copy.deepcopy(layer)), rank_two)
    assert shapeshift.count_parameters(decomposed) == rank_two
    assert_close(decomposed(x), layer(x), "reordered")


def test_less_than_rank_one_is_refused() -> None:
    with pytest.raises(BudgetError, match="rank one has 20 parameters, more than 19"):
        factorise(nn.Sequential(nn.Linear(12, 8, bias=False)), 19)


def test_the_channels_of_least_magnitude_go() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 5.0, 2.0, 6.0, 3.0, 4.0])[:, None].expand(6, 4))
        model[2].weight.fill_(1.0)
    smaller = prune_by_magnitude(model, torch.randn(2, 4), budget=18)
    assert smaller[0].weight[:, 0].tolist() == [5.0, 6.0, 4.0]


class Noise(ImageClassification):
    """Tells images of noise apart, which it is tested on, too."""

    images = Images(torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 10, 10)

    def load(self, task: Task) -> tuple[Images, Images]:
        return self.images, self.images


NOISE = Task("noise", Recipe(epochs=30, batch_size=8))


def test_what_was_trained_is_measured_before_it_is_trained_on() -> None:
    network = WideNetwork(10, 0.5)
    row = Row(network, "fit", "100%", fitted, recipe={"epochs": 1, "learning_rate": 1e-3})
    found = Noise((ERROR, BEFORE)).run(row, NOISE, seed=0)
    original = pretrained(network, "", Training(Noise.images, NOISE.recipe, 0, "cpu"))
    with torch.no_grad():
        wrong = (original.eval()(Noise.images.images).argmax(1) != Noise.images.labels).float().mean().item()
    assert found["before"] == pytest.approx(100 * wrong)
    assert wrong < 0.5, "the network has not learned anything that could be kept"
    assert found["error"] <= 50


def test_what_was_trained_is_measured_with_averages_of_its_present_weights() -> None:
    def stale(network: Network, budget: str, training: Training) -> nn.Module:
        model = copy.deepcopy(pretrained(network, budget, training))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(100)  # type: ignore[union-attr]
        return model

    row = Row(WideNetwork(10, 0.5), "stale", "", stale, recipe={"epochs": 1, "learning_rate": 0.0})
    trained, plain = Noise((ERROR, BEFORE)).run(row, NOISE, seed=0), Noise().run(row, NOISE, seed=0)
    assert trained["before"] == trained["error"] < 50 < plain["error"]


@pytest.mark.parametrize("budget", ["", "2x"])
def test_processes_find_what_others_pretrained(budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images(torch.randn(16, 1, 8, 8), torch.arange(16) % 10, num_classes=10)
    arguments = WideNetwork(10, 0.25), budget, Training(images, Recipe(epochs=1, batch_size=8), 0, "cpu")
    try:
        share_in(tmp_path)
        first, drawn = pretrained(*arguments), torch.rand(1)
        share_in(tmp_path)  # as another process, which remembers nothing
        monkeypatch.setattr(pretraining, "train", None)  # would fail if it were trained again
        again = pretrained(*arguments)
    finally:
        share_in(None)
    assert again is not first
    assert_close(dict(again.state_dict()), dict(first.state_dict()), "identical")
    assert torch.rand(1) == drawn, "what follows depends on who trained"
