"""The network that labels every pixel."""

from __future__ import annotations

import pytest
import torch

import shapeshift
from shapeshift import ConfigError
from shapeshift.experiments.data.shortest_paths import (
    shortest_paths,
)
from shapeshift.networks.pixelwise import PixelwiseNetwork


def test_the_network_keeps_the_sides_and_sees_as_far_as_it_is_deep() -> None:
    model = PixelwiseNetwork(depth=3, channels=8, out_channels=2).eval()
    images = torch.randn(2, 2, 9, 11, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 2, 9, 11)
    logits[0, 0, 4, 5].backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(0) > 0
    assert torch.nonzero(seen).amin(0).tolist() == [1, 2]
    assert torch.nonzero(seen).amax(0).tolist() == [7, 8]
    assert not images.grad[1].any()


def test_the_papers_network_has_twenty_equal_layers() -> None:
    model = PixelwiseNetwork()
    layers, rest = 20 * (32 * 32 * 9 + 2 * 32), (2 * 32 + 32) + (32 + 1)
    assert shapeshift.count_parameters(model) == layers + rest
    assert len({parameter.shape for name, parameter in model.named_parameters() if name.endswith("conv.weight")}) == 1
    # The logits start at what one pixel's decision is about, however deep the network is.
    assert 0.01 < model(shortest_paths(8, 5).images).abs().mean() < 10
    with pytest.raises(ConfigError, match="at least one 3x3 convolution, not 0"):
        PixelwiseNetwork(depth=0)
