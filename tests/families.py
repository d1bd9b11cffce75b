"""Networks of several sizes for families, and their data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.superweights import Family


def wide_resnets() -> list[nn.Module]:
    return [WideResNet(depth, width) for depth, width in ((16, 0.5), (16, 0.25), (10, 0.5), (10, 0.25))]


def resnets() -> list[nn.Module]:
    def build(layers: list[int], channels: list[int]) -> nn.Module:
        return timm.models.ResNet(
            timm.models.resnet.Bottleneck, layers, num_classes=5, channels=tuple(channels), stem_width=8
        )

    return [build([1, 2, 1, 1], [4, 8, 8, 16]), build([1, 1, 1, 1], [2, 4, 8, 8])]


def vision_transformers() -> list[nn.Module]:
    sizes = ((24, 3, 3), (16, 2, 2))
    return [
        timm.models.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=width, depth=depth, num_heads=heads, num_classes=5
        )
        for width, depth, heads in sizes
    ]


def transformers_with_logits() -> list[nn.Module]:
    configs = [
        ViTConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            num_labels=5,
        )
        for width in (16, 12)
    ]
    return [ViTForImageClassification(config) for config in configs]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "wide resnets": wide_resnets,
    "resnets": resnets,
    "vision transformers": vision_transformers,
    "transformers": transformers_with_logits,
}


every_kind = pytest.mark.parametrize("kind", NETWORKS)


def build(kind: str = "wide resnets", budget: Any = 0.8, **options: Any) -> Family:
    torch.manual_seed(0)
    return Family(NETWORKS[kind](), budget, **options)


def images(count: int = 4, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def labelled(count: int = 24, classes: int = 5) -> list[tuple[Tensor, Tensor]]:
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(4))
    return list(zip(images(count).split(8), labels.split(8), strict=True))


def logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)


def averages(family: Family, x: Tensor) -> list[Tensor]:
    each = [family.members[index].eval()(x).softmax(1).detach() for index in family.order.tolist()]
    return [sum(each[:count]) / count for count in range(1, len(each) + 1)]
