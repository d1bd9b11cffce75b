"""The convolutional trunk of networks for images with texts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shapeshift import ConfigError
from shapeshift.networks.trunk import WideTrunk


def test_the_trunk_is_a_wide_residual_network_without_its_head() -> None:
    trunk = WideTrunk(10, 0.5, in_channels=1, stem=8, stride=2)
    assert trunk(torch.randn(2, 1, 24, 32)).shape == (2, 32, 3, 4)
    assert (trunk.out_channels, trunk.stride) == (32, 8)
    assert not [module for module in trunk.modules() if isinstance(module, nn.Linear)]
    with pytest.raises(ConfigError, match=r"6n \+ 4"):
        WideTrunk(11, 1)
