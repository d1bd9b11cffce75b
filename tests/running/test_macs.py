"""The multiply-accumulates of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shapeshift.running.batches import Inputs
from shapeshift.running.macs import count_macs


def test_multiply_accumulates_of_torchs_own_transformer_layers_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    tokens, weights = 10, 4 * 32 * 32 + 2 * 32 * 64
    found = count_macs(layer, Inputs((torch.randn(1, tokens, 32),), {}))
    assert found == tokens * weights + 2 * tokens**2 * 32
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_parameter_that_is_handed_to_a_submodule_does_not_stop_the_count() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.attend = nn.Parameter(torch.randn(1, 1, 16)), nn.MultiheadAttention(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(self.query, x, x)[0]

    assert count_macs(Pooled(), Inputs((torch.randn(6, 1, 16),), {})) > 0
