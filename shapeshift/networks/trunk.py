"""The convolutions of a wide residual network, for networks that read feature maps."""

from __future__ import annotations

from torch import Tensor, nn

from shapeshift.networks.wide_resnet import WideResNet


class WideTrunk(nn.Module):
    """A wide residual network (Zagoruyko and Komodakis 2016, table 1) up to its last feature maps.

    Args:
        depth: The number of layers with weights of the whole network: 6n + 4 for n blocks in each of the three stages.
        width: The factor on the stages' channels of 16, 32 and 64.
        in_channels: The number of channels of the images.
        stem: The number of channels of the first convolution.
        stride: The stride of the first convolution.

    Attributes:
        out_channels: The number of channels of the feature maps.
        stride: The number of pixels per position of the feature maps, along each side.

    Raises:
        ConfigError: If the depth is not 6n + 4.

    Example:
        >>> import torch
        >>> from shapeshift.networks.trunk import WideTrunk
        >>> trunk = WideTrunk(10, 0.5)
        >>> trunk(torch.randn(2, 3, 16, 16)).shape, trunk.stride
        (torch.Size([2, 32, 4, 4]), 4)
    """

    def __init__(self, depth: int, width: float, in_channels: int = 3, stem: int = 16, stride: int = 1) -> None:
        super().__init__()
        network = WideResNet(depth, width, 1, in_channels, stem)
        self.stem, self.blocks, self.norm, self.relu = network.stem, network.blocks, network.norm, network.relu
        self.stem.stride = (stride, stride)
        self.out_channels = self.norm.num_features
        self.stride = 4 * stride

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.relu(self.norm(self.blocks(self.stem(images))))
        return maps
