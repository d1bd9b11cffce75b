"""The unit of VGG and GoogLeNet: a convolution, batch norm and ReLU."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class ConvNormReLU(nn.Sequential):
    """A convolution that keeps the height and the width, batch norm, and ReLU.

    Args:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        kernel_size: The side of the kernel in pixels, an odd number.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), relu=nn.ReLU()))
