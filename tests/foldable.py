"""Models with equal layers, soft-shared and folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from shapeshift.networks.resnet import ResNet
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import (
    Folding,
    fold,
    soft_share,
)
from shapeshift.recurrence.rows import find_rows
from shapeshift.surgery.roots import require_shared


def wrn(**options: Any) -> nn.Module:
    """Make a wide residual network with three blocks in each stage, of which two are alike."""
    return WideResNet(22, 0.5, **options)


def bert() -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(intermediate_size=32, **sizes, **dropout))


def images(side: int = 8) -> tuple[Tensor]:
    return (torch.randn(4, 3, side, side),)


def members(model: nn.Module) -> dict[str, list[str]]:
    plan = require_shared(model).plan
    return {group.name: [weight.name for weight in group.weights] for group in plan.groups}


def coefficients(model: nn.Module, group: str) -> Tensor:
    """Return the coefficients of a group as a matrix to be written to."""
    found = require_shared(model)[group]
    return found.coefficients.data.view(len(found.weights), -1)


def alternate(model: nn.Module) -> None:
    """Let each block mix as the first one of its stage does, with other lengths and signs."""
    first = tuple(f"{stage.steps[0]}." for stage in find_rows(model))
    for group in require_shared(model).generators():
        matrix = group.coefficients.data.view(len(group.weights), -1)
        period = sum(weight.name.startswith(first) for weight in group.weights)
        for layer in range(period, len(matrix)):
            matrix[layer] = matrix[layer - period] * (-1.5 if layer % 3 else 2)


FOLDED: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "wide resnet": (lambda: WideResNet(28, 0.5), images),
    "resnet": (lambda: ResNet(26, 0.5), images),
    "timm resnet": (lambda: timm.create_model("resnet14t", layers=(1, 4, 1, 1)), lambda: images(32)),
    "torch encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 4, enable_nested_tensor=False
        ),
        lambda: (torch.randn(2, 5, 16),),
    ),
    "timm vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=4, num_heads=2),
        lambda: images(32),
    ),
    "bert": (
        bert,
        lambda: (torch.randint(50, (2, 6)),),
    ),
}


def folded(name: str) -> tuple[nn.Module, tuple[Any, ...], Folding]:
    """Make a model of which each block is the first of its stage once more, and fold it."""
    torch.manual_seed(0)
    build, inputs = FOLDED[name]
    model = soft_share(build(), 2)
    alternate(model)
    return model, inputs(), fold(model, 0.999)


def generated(model: nn.Module, name: str) -> Tensor:
    group, index = next(
        (group, index)
        for group in require_shared(model).generators()
        for index, weight in enumerate(group.weights)
        if weight.name == name
    )
    return group.generate([index])[0].detach().clone()
