"""Pairs of a teacher and a student of every library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.wide_resnet import WideResNet

CLASSES = 5


def images(side: int = 16) -> Tensor:
    return torch.randn(4, 3, side, side)


def tokens(**more: Tensor) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 48, (4, 10)), **more}


def bert(kind: str, layers: int, width: int, **options: Any) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=48,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=16,
        **options,
    )
    return getattr(transformers, f"BertFor{kind}")(config)


def gpt2(layers: int, width: int) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=48, n_positions=16, n_embd=width, n_layer=layers, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def vit(layers: int, width: int) -> nn.Module:
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        num_labels=CLASSES,
    )
    return transformers.ViTForImageClassification(config)


def hf_resnet(depth: int, width: int) -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[width, 2 * width, 3 * width],
        depths=[depth] * 3,
        layer_type="basic",
        num_labels=CLASSES,
    )
    return transformers.ResNetForImageClassification(config)


def torchvision_resnet(depth: int, width: int) -> nn.Module:
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [depth, depth, depth, 1], num_classes=CLASSES, width_per_group=width)


def timm_resnet(*channels: int) -> nn.Module:
    return timm.create_model("test_resnet", num_classes=CLASSES, channels=channels)


def timm_vit(depth: int, width: int) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=width,
        depth=depth,
        num_heads=2,
        num_classes=CLASSES,
    )


def convnext(*depths: int) -> nn.Module:
    return timm.create_model("convnext_atto", num_classes=CLASSES, depths=depths, dims=(8, 12, 16, 20))


def efficientnet(channel_multiplier: int) -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=CLASSES, channel_multiplier=channel_multiplier)


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher: makes it.
        student: makes one with the same classes, and stages of the same resolutions.
        x: makes a batch for both.
    """

    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    x: Callable[[], Any]


PAIRS = {
    "wide resnet": Pair(lambda: WideResNet(16, 0.5, CLASSES), lambda: WideResNet(10, 0.25, CLASSES), images),
    "resnet": Pair(lambda: ResNet(14, num_classes=CLASSES), lambda: ResNet(8, 0.5, CLASSES), images),
    "densenet": Pair(lambda: DenseNet(22, 6, CLASSES), lambda: DenseNet(16, 4, CLASSES), images),
    "torchvision": Pair(lambda: torchvision_resnet(2, 16), lambda: torchvision_resnet(1, 8), lambda: images(64)),
    "timm resnet": Pair(lambda: timm_resnet(32, 48, 48, 96), lambda: timm_resnet(8, 8, 8, 16), lambda: images(64)),
    "timm vit": Pair(lambda: timm_vit(4, 24), lambda: timm_vit(2, 16), lambda: (images(),)),
    "convnext": Pair(lambda: convnext(2, 2, 2, 2), lambda: convnext(1, 1, 1, 1), lambda: images(64)),
    "efficientnet": Pair(lambda: efficientnet(2), lambda: efficientnet(1), lambda: images(64)),
    "bert": Pair(
        lambda: bert("SequenceClassification", 4, 24, num_labels=CLASSES),
        lambda: bert("SequenceClassification", 2, 16, num_labels=CLASSES),
        lambda: tokens(attention_mask=(torch.arange(10) < 8).long().expand(4, 10), labels=torch.arange(4)),
    ),
    "masked language model": Pair(lambda: bert("MaskedLM", 4, 24), lambda: bert("MaskedLM", 2, 16), tokens),
    "question answering": Pair(
        lambda: bert("QuestionAnswering", 4, 24), lambda: bert("QuestionAnswering", 2, 16), tokens
    ),
    "gpt2": Pair(lambda: gpt2(4, 24), lambda: gpt2(2, 16), lambda: tokens()["input_ids"]),
    "vit": Pair(lambda: vit(4, 24), lambda: vit(2, 16), lambda: {"pixel_values": images()}),
    "hf resnet": Pair(lambda: hf_resnet(2, 12), lambda: hf_resnet(1, 8), lambda: images(64)),
    "compressed": Pair(
        lambda: shapeshift.compress(WideResNet(16, 0.5, CLASSES), 0.5),
        lambda: shapeshift.compress(WideResNet(10, 0.5, CLASSES), 0.5),
        images,
    ),
}


def hooks(*models: nn.Module) -> list[Any]:
    modules = [module for model in models for module in model.modules()]
    return [hook for module in modules for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
