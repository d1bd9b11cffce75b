"""VGG networks for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.networks.conv_norm_relu import ConvNormReLU
from shapeshift.networks.initialization import initialize
from shapeshift.networks.reduced import scaled_width

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """A VGG network with batch norm, such as VGG-16 (Simonyan and Zisserman 2015, table 1), for images of 32 pixels.

    After five poolings such an image is a single pixel, and one linear layer takes the place of the paper's three.
    Smaller images are taken as well: a side of one pixel is not pooled further.

    Args:
        depth: of the paper's network, its three linear layers counted: 11, 13, 16 or 19.
        width: factor on the stages' channels of 64, 128, 256, 512 and 512; a fraction makes the network thinner.
        num_classes: size of the output.
        in_channels: channels of the images.

    Raises:
        ValueError: if the depth is none of these.
    """

    def __init__(self, depth: int = 16, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise ValueError(f"the depth of a VGG network is 11, 13, 16 or 19, not {depth}")
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
