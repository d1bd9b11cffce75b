"""Gradient checkpointing of timm, of transformers and of torch keeps the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.library_models import tiny_gpt2, tiny_vit
from tests.methods import compressed
from tests.models import gradients
from tests.tolerances import assert_close


class TestGradientCheckpointing:
    def test_timm(self) -> None:
        model, images = compressed(tiny_vit(), mapping="single"), torch.randn(2, 3, 32, 32)
        expected = gradients(model, (images,))
        model.set_grad_checkpointing()
        assert_close(gradients(model, (images,)), expected, "identical")

    @pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
    @pytest.mark.parametrize("use_reentrant", [False, True])
    @pytest.mark.parametrize("mapping", ["shape", "single"])
    def test_transformers(self, use_reentrant: bool, mapping: str) -> None:
        model, tokens = compressed(tiny_gpt2(), mapping=mapping), torch.randint(48, (2, 8))
        model.config.use_cache = False
        model.train()
        expected = gradients(model, (tokens,))
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        found = gradients(model, (tokens,))
        assert model.is_gradient_checkpointing
        assert_close(found, expected, "reordered gradient")

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_weight_used_twice_inside_and_once_outside(self, use_reentrant: bool) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
                self.checkpointed = False

            def block(self, x: Tensor) -> Tensor:
                return self.layer(self.other(self.layer(x).tanh()).tanh())

            def forward(self, x: Tensor) -> Tensor:
                x = self.layer(x)
                return checkpoint(self.block, x, use_reentrant=use_reentrant) if self.checkpointed else self.block(x)

        model, x = compressed(Model()), torch.randn(3, 8)
        expected = gradients(model, (x,))
        model.checkpointed = True
        assert_close(gradients(model, (x,)), expected, "reordered gradient")
