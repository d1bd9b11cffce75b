"""The filters that are removed together, and their choice by rank."""

from __future__ import annotations

import torch

from shapeshift import prune
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from tests.prunable import images, kept_channels, livened, taken


def test_the_filters_of_lowest_rank_go() -> None:
    model, x = livened(VGG(11, 0.125)), images(64)
    ranks = prune.feature_ranks(model, [x], progress=False)
    rates = [0.95, 0.5, 0.29, 0.9, 0.0, 0.1, 0.8, 0.33]
    pruned = prune.hrank(model, [x], rates, ranks=ranks)
    kept, previous = kept_channels(pruned), "images"
    kept[previous] = [0, 1, 2]
    for (layer, scores), rate in zip(ranks.items(), rates, strict=True):
        order = sorted(range(len(scores)), key=lambda index: scores[index].item())
        assert kept[layer] == sorted(order[int(rate * len(scores)) :])
        weight, full = pruned.get_submodule(layer).weight, model.get_submodule(layer).weight
        assert torch.equal(weight, full[kept[layer]][:, kept[previous]])
        previous = layer
    assert pruned.head.in_features == len(kept[previous])


def test_layers_of_one_residual_stream_lose_the_same_filters() -> None:
    model, x = livened(ResNet(14, projection=True)), images()
    ranks = {layer: torch.rand_like(found) for layer, found in taken(model, x).items()}
    rates = dict.fromkeys(ranks, 0.0) | {"stages.1.0.conv2": 0.25, "stages.1.1.conv2": 0.5}
    kept = kept_channels(prune.hrank(model, [x], rates, ranks=ranks))
    mean = (ranks["stages.1.0.conv2"] + ranks["stages.1.1.conv2"]) / 2
    # The mean of their rates, 0.375 of 32 filters.
    expected = sorted(torch.argsort(mean)[12:].tolist())
    for layer in ("stages.1.0.conv2", "stages.1.0.shortcut", "stages.1.1.conv2"):
        assert kept[layer] == expected
    assert kept["stages.1.1.conv1"] == list(range(32))
    assert kept["stem"] == list(range(16))
