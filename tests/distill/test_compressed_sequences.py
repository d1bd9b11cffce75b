"""Features of a student are found where those of the same dense network are."""

from __future__ import annotations

import torch
from torch import nn

import shapeshift
from shapeshift.distill.features import locate
from shapeshift.distill.trace import trace


def build(compressed: bool) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
    if compressed:
        shapeshift.compress(body, "60%")
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()


def test_a_compressed_sequence_is_left_out_like_a_plain_one() -> None:
    places = []
    for model in (build(False), build(True)):
        made = trace(model, torch.randn(2, 3, 12, 12))
        (output,) = (call.output for call in made.calls if call.path == "0")
        assert output is not None
        places.append(str(locate(made, output)))
    assert places == ["0.3 (16 channels, 8 x 8)"] * 2
