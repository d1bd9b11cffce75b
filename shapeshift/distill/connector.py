"""What carries a student's feature to the teacher's channels."""

from __future__ import annotations

from torch import Tensor, nn


class Connector(nn.Module):
    """A 1x1 convolution without bias and a batch norm, and a ReLU where asked for.

    Args:
        in_channels: of the student's feature.
        out_channels: of the teacher's.
        rectified: whether a ReLU follows.
    """

    def __init__(self, in_channels: int, out_channels: int, rectified: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.rectified = rectified
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        """Map features of shape (N, in_channels, rows, columns) to (N, out_channels, rows, columns)."""
        # The features of a model in half precision arrive as such; under autocast the convolution casts back.
        connected: Tensor = self.norm(self.conv(maps.to(self.conv.weight.dtype)))
        return connected.relu() if self.rectified else connected
