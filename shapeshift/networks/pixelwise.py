"""A network that classifies each pixel of an image."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from shapeshift.errors import ConfigError
from shapeshift.networks.conv_norm_relu import ConvNormReLU
from shapeshift.networks.initialization import initialize


class SkippedLayer(nn.Module):
    """A 3x3 convolution, batch norm and ReLU, and a connection that skips the three.

    Args:
        channels: The number of channels of the input and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = ConvNormReLU(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layer(x)
        return out


class PixelwiseNetwork(nn.Module):
    """A stack of equal 3x3 convolutions between two 1x1 ones (Savarese and Maire 2019, section 4.3).

    All convolutions keep the height and the width. The equal ones can share their weights, down to a loop around a
    single one. The output at a pixel depends on pixels at most ``depth`` away.

    Args:
        depth: The number of 3x3 convolutions, at least 1.
        channels: The number of channels of each of them.
        in_channels: The number of channels of the images.
        out_channels: The number of logits for each pixel.

    Raises:
        ConfigError: If there is no 3x3 convolution.
    """

    def __init__(self, depth: int = 20, channels: int = 32, in_channels: int = 2, out_channels: int = 1) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"a pixelwise network has at least one 3x3 convolution, not {depth}")
        self.stem = nn.Conv2d(in_channels, channels, 1)
        self.layers = nn.Sequential(OrderedDict((f"{index}", SkippedLayer(channels)) for index in range(depth)))
        self.head = nn.Conv2d(channels, out_channels, 1)
        # The 1x1 convolutions keep torch's rule: with a single output, the other one would start logits at about 10.
        initialize(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, of shape (N, out_channels, height, width)."""
        logits: Tensor = self.head(self.layers(self.stem(x)))
        return logits
