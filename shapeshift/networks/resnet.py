"""Residual networks for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.errors import ConfigError
from shapeshift.networks.initialization import initialize
from shapeshift.networks.reduced import scaled_width


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: it skips pixels, and appends channels of zeros.

    Args:
        extra_channels: The number of channels that are appended.
        stride: The step in pixels.
    """

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


class ResidualBlock(nn.Module):
    """A residual block of two 3x3 convolutions, each with batch norm, and ReLU after the first and after the sum.

    Args:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        stride: The stride of the first convolution.
        projection: Whether the shortcut projects where the shape changes. Otherwise it pads.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and projection:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        elif stride != 1:
            self.shortcut = PaddedShortcut(out_channels - in_channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu1(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A residual network of the CIFAR form, such as ResNet-56 (He et al. 2016, section 4.2).

    Where a stage changes the shape, the paper's shortcut on small images pads and has no parameters (option A). Build
    with projections (option B, 0.3% more parameters in ResNet-56) to prune channels: tools that follow channels from
    layer to layer lose them in the padding.

    Args:
        depth: The number of layers with weights: 6n + 2 for n blocks in each of the three stages.
        width: The factor on the stages' channels of 16, 32 and 64. A fraction makes the network thinner.
        num_classes: The number of classes.
        in_channels: The number of channels of the images.
        projection: Whether the shortcuts project where the shape changes. Otherwise they pad.

    Raises:
        ConfigError: If the depth is not 6n + 2.

    Example:
        >>> import torch
        >>> from shapeshift.networks.resnet import ResNet
        >>> ResNet(20, width=0.25)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        projection: bool = False,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ConfigError(f"the depth of a residual network is 6n + 2, such as 20, 56 or 110, not {depth}")
        channels = [scaled_width(base, width) for base in (16, 32, 64)]
        current = channels[0]
        self.stem = nn.Conv2d(in_channels, current, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(current)
        self.relu = nn.ReLU()
        stages = []
        for stage, out_channels in enumerate(channels):
            layers = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(ResidualBlock(current, out_channels, stride, projection))
                current = out_channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(current, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.relu(self.norm(self.stem(x))))
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits
