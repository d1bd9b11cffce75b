"""VGG networks for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import ConfigError
from shapeshift.networks.conv_norm_relu import ConvNormReLU
from shapeshift.networks.initialization import initialize
from shapeshift.networks.reduced import scaled_width

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A VGG network with batch norm, such as VGG-16 (Simonyan and Zisserman 2015, table 1), for images of 32 pixels.

    Five poolings reduce such an image to a single pixel, and one linear layer takes the place of the paper's three.
    Smaller images work too: a side of one pixel is not pooled further.

    Args:
        depth: The depth of the paper's network, with its three linear layers: 11, 13, 16 or 19.
        width: The factor on the stages' channels of 64, 128, 256, 512 and 512. A fraction makes the network thinner.
        num_classes: The number of classes.
        in_channels: The number of channels of the images.

    Raises:
        ConfigError: If there is no VGG network of the depth.

    Example:
        >>> import torch
        >>> from shapeshift.networks.vgg import VGG
        >>> VGG(11, width=0.1)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, depth: int = 16, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise ConfigError(f"the depth of a VGG network is 11, 13, 16 or 19, not {depth}")
        stages = []
        current = in_channels
        for base, convolutions in zip(_CHANNELS, _CONVOLUTIONS[depth], strict=True):
            stage = nn.Sequential()
            for _ in range(convolutions):
                out_channels = scaled_width(base, width)
                stage.append(ConvNormReLU(current, out_channels, 3))
                current = out_channels
            # Rounded up, a side of one stays one.
            stage.append(nn.MaxPool2d(2, ceil_mode=True))
            stages.append(stage)
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(current, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.flatten(self.pool(self.stages(x)), 1))
        return logits
