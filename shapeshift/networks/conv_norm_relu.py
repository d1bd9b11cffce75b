"""The unit that VGG and GoogLeNet are made of."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class ConvNormReLU(nn.Sequential):
    """A convolution that keeps the sides, batch norm, and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel in pixels, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), relu=nn.ReLU()))
