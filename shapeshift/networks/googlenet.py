"""GoogLeNet for small images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shapeshift.networks.conv_norm_relu import ConvNormReLU
from shapeshift.networks.initialization import initialize
from shapeshift.networks.reduced import scaled_width


class InceptionWidths(NamedTuple):
    """Channels of the convolutions of an inception module, named as the columns of Szegedy et al. 2015, table 1.

    Attributes:
        conv1: The channels of the 1x1 convolution.
        reduce3: The channels of the 1x1 convolution before the 3x3 one.
        conv3: The channels of the 3x3 convolution.
        reduce5: The channels of the 1x1 convolution before the 5x5 one.
        conv5: The channels of the 5x5 convolution.
        pool: The channels of the 1x1 convolution after the pooling.
    """

    conv1: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool: int

    @property
    def out_channels(self) -> int:
        """The number of channels of the module's output."""
        return self.conv1 + self.conv3 + self.conv5 + self.pool


_STEM = 192
_STAGES = (
    (InceptionWidths(64, 96, 128, 16, 32, 32), InceptionWidths(128, 128, 192, 32, 96, 64)),
    (
        InceptionWidths(192, 96, 208, 16, 48, 64),
        InceptionWidths(160, 112, 224, 24, 64, 64),
        InceptionWidths(128, 128, 256, 24, 64, 64),
        InceptionWidths(112, 144, 288, 32, 64, 64),
        InceptionWidths(256, 160, 320, 32, 128, 128),
    ),
    (InceptionWidths(256, 160, 320, 32, 128, 128), InceptionWidths(384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """An inception module: four branches side by side (Szegedy et al. 2015, figure 2b), with batch norm.

    Two 3x3 convolutions take the place of the 5x5 one, as in Ioffe and Szegedy 2015, section 4.2.

    Args:
        in_channels: The number of channels of the input.
        widths: The numbers of channels of the convolutions.
    """

    def __init__(self, in_channels: int, widths: InceptionWidths) -> None:
        super().__init__()
        self.branch1 = ConvNormReLU(in_channels, widths.conv1, 1)
        self.branch3 = nn.Sequential(
            ConvNormReLU(in_channels, widths.reduce3, 1),
            ConvNormReLU(widths.reduce3, widths.conv3, 3),
        )
        self.branch5 = nn.Sequential(
            ConvNormReLU(in_channels, widths.reduce5, 1),
            ConvNormReLU(widths.reduce5, widths.conv5, 3),
            ConvNormReLU(widths.conv5, widths.conv5, 3),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            ConvNormReLU(in_channels, widths.pool, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet with batch norm for images of 32 pixels (Szegedy et al. 2015, table 1).

    One 3x3 convolution takes the place of the layers that shrink an image of 224 pixels before the first inception
    module, and there are no auxiliary classifiers. Lin et al. 2020 (HRank) prune this form.

    Args:
        width: The factor on the channels of every convolution. A fraction makes the network thinner.
        num_classes: The number of classes.
        in_channels: The number of channels of the images.

    Example:
        >>> import torch
        >>> from shapeshift.networks.googlenet import GoogLeNet
        >>> GoogLeNet(width=0.1)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        current = scaled_width(_STEM, width)
        self.stem = ConvNormReLU(in_channels, current, 3)
        stages = []
        for index, modules in enumerate(_STAGES):
            stage = nn.Sequential()
            if index:
                stage.append(nn.MaxPool2d(3, stride=2, padding=1))
            for full in modules:
                widths = InceptionWidths(*(scaled_width(channels, width) for channels in full))
                stage.append(Inception(current, widths))
                current = widths.out_channels
            stages.append(stage)
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(current, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.flatten(self.pool(self.stages(self.stem(x))), 1))
        return logits
