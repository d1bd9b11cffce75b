"""The starting values of the networks."""

from __future__ import annotations

from torch import nn


def initialize(network: nn.Module) -> None:
    """Draw convolutions so that gradients keep their variance (He et al. 2015, eq. 14); start the head's bias at zero.

    Args:
        network: The network, which is changed in place. Other layers keep the starting values of their class.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
