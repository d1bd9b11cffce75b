"""Wide residual networks for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.errors import ConfigError
from shapeshift.networks.initialization import initialize
from shapeshift.networks.reduced import scaled_width


class PreActivationBlock(nn.Module):
    """A residual block with batch norm and ReLU before each of its two 3x3 convolutions.

    Args:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        stride: The stride of the first convolution.
        dropout: The probability of dropping an entry between the two convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        # A projection reads the activated input, and the identity the raw one.
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        x = self.conv1(activated)
        x = self.conv2(self.dropout(self.relu2(self.norm2(x))))
        out: Tensor = x + shortcut
        return out


class WideResNet(nn.Module):
    """A pre-activation wide residual network, WRN-depth-width (Zagoruyko and Komodakis 2016, table 1).

    Args:
        depth: The number of layers with weights: 6n + 4 for n blocks in each of the three stages.
        width: The factor on the stages' channels of 16, 32 and 64. A fraction makes the network thinner.
        num_classes: The number of classes.
        in_channels: The number of channels of the images.
        stem: The number of channels of the first convolution.
        dropout: The probability of dropping an entry inside a block.

    Raises:
        ConfigError: If the depth is not 6n + 4.

    Example:
        >>> import torch
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> WideResNet(16, 0.5)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        width: float,
        num_classes: int = 10,
        in_channels: int = 3,
        stem: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ConfigError(f"the depth of a wide residual network is 6n + 4, such as 16, 22 or 28, not {depth}")
        channels = [scaled_width(base, width) for base in (16, 32, 64)]
        self.stem = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        layers, current = [], stem
        for stage, out_channels in enumerate(channels):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(PreActivationBlock(current, out_channels, stride, dropout))
                current = out_channels
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(current)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(current, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.blocks(self.stem(x))))
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


def thin_wide_resnet(factor: float, depth: int, width: float = 1.0, **options: int | float) -> WideResNet:
    """Build a wide residual network with all of its channels, the first convolution's too, scaled by a factor."""
    return WideResNet(depth, width * factor, stem=scaled_width(16, factor), **options)  # type: ignore[arg-type]
