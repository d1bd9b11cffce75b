"""Connectors: learned maps from a student's feature to the teacher's channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Connector(nn.Module):
    """A 1x1 convolution without bias, a batch norm, and optionally a ReLU.

    Args:
        in_channels: The number of channels of the student's feature.
        out_channels: The number of channels of the teacher's feature.
        rectified: Whether a ReLU follows.
    """

    def __init__(self, in_channels: int, out_channels: int, rectified: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.rectified = rectified
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor, counts: Tensor | None = None) -> Tensor:
        """Map features of shape (N, in_channels, rows, columns) to (N, out_channels, rows, columns).

        Args:
            maps: The features.
            counts: The positions that count, of shape (N, rows, columns). The batch norm sees no others, and the result
                is 0 there. None lets all of them count.
        """
        if counts is None:
            return self._connect(maps)
        rows = self._connect(maps.movedim(1, -1)[counts][..., None, None])[..., 0, 0]
        connected = rows.new_zeros(*counts.shape, rows.shape[1])
        connected[counts] = rows
        return connected.movedim(-1, 1)

    def _connect(self, maps: Tensor) -> Tensor:
        # A model in half precision has features of that dtype; under autocast the convolution casts them back.
        maps = self.conv(maps.to(self.conv.weight.dtype))
        # A channel with a single value has no variance: the last batch of an epoch may be one pooled token.
        few = self.training and maps.numel() <= maps.shape[1]
        norm = self.norm
        connected: Tensor = (
            F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            if few
            else norm(maps)
        )
        return connected.relu() if self.rectified else connected
