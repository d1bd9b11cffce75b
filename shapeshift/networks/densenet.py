"""Densely connected networks for small images."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from shapeshift.errors import ConfigError
from shapeshift.networks.initialization import initialize


class NormReLUConv(nn.Sequential):
    """Batch norm, ReLU, and a convolution that keeps the height and the width.

    Args:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        kernel_size: The side of the kernel in pixels, an odd number.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        super().__init__(OrderedDict(norm=nn.BatchNorm2d(in_channels), relu=nn.ReLU(), conv=conv))


class DenseLayer(nn.Module):
    """A layer that appends a few channels, computed from all channels before them (Huang et al. 2017, eq. 2).

    Args:
        in_channels: The number of channels of the input.
        growth: The number of channels that the layer appends.
        bottleneck: Whether a 1x1 convolution first narrows the input to four times the growth.
    """

    def __init__(self, in_channels: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        self.new = nn.Sequential()
        if bottleneck:
            self.new.append(NormReLUConv(in_channels, 4 * growth, 1))
            in_channels = 4 * growth
        self.new.append(NormReLUConv(in_channels, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


class DenseNet(nn.Module):
    """A densely connected network of three blocks, such as DenseNet-40 with growth 12 (Huang et al. 2017, section 3).

    DenseNet-BC has a bottleneck, a compression of 0.5, and a stem of twice the growth.

    Args:
        depth: The number of layers with weights: 3n + 4 for n layers in each block, and 6n + 4 with a bottleneck.
        growth: The number of channels that a layer appends, at least 1. A fraction is met on average: a layer appends
            the integer below it or, later in the network, the one above it.
        num_classes: The number of classes.
        in_channels: The number of channels of the images.
        stem: The number of channels of the first convolution.
        bottleneck: Whether a 1x1 convolution narrows the input of each 3x3 convolution.
        compression: The share of channels, in (0, 1], that the transition between two blocks keeps.

    Raises:
        ConfigError: If the depth has another form, or the growth or the compression is out of its range.

    Example:
        >>> import torch
        >>> from shapeshift.networks.densenet import DenseNet
        >>> network = DenseNet(40, growth=2, num_classes=10)
        >>> network(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        growth: float,
        num_classes: int = 10,
        in_channels: int = 3,
        stem: int = 16,
        bottleneck: bool = False,
        compression: float = 1.0,
    ) -> None:
        super().__init__()
        period = 6 if bottleneck else 3
        layers, rest = divmod(depth - 4, period)
        if rest or layers < 1:
            kind = "DenseNet with a bottleneck" if bottleneck else "DenseNet without a bottleneck"
            raise ConfigError(f"the depth of a {kind} is {period}n + 4, such as 40 or 100, not {depth}")
        if growth < 1:
            raise ConfigError(f"the growth of a DenseNet is at least one channel per layer, not {growth}")
        if not 0 < compression <= 1:
            raise ConfigError(f"the compression of a DenseNet is a share of channels, in (0, 1], not {compression}")
        current = stem
        features: OrderedDict[str, nn.Module] = OrderedDict()
        features["stem"] = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        for block in range(3):
            if block:
                kept = max(1, int(compression * current))
                features[f"transition{block}"] = NormReLUConv(current, kept, 1)
                features[f"pool{block}"] = nn.AvgPool2d(2)
                current = kept
            dense = nn.Sequential()
            for layer in range(layers):
                # Adds up to the whole part of the growth times the number of layers (Hermite's identity), and no layer
                # shrinks when the growth rises.
                appended = int(growth + (block * layers + layer) / (3 * layers))
                dense.append(DenseLayer(current, appended, bottleneck))
                current += appended
            features[f"block{block + 1}"] = dense
        features["norm"] = nn.BatchNorm2d(current)
        features["relu"] = nn.ReLU()
        self.features = nn.Sequential(features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(current, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.flatten(self.pool(self.features(x)), 1))
        return logits
