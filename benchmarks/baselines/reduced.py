"""The reduced baseline: thinner networks of each family, all of whose widths scale by one factor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from shapeshift.names import Registry
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.reduced import reduce_width, scaled_width
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from shapeshift.networks.wide_resnet import thin_wide_resnet

# From the name of a family to a function that builds one of its networks, given a factor in (0, 1] on all of its widths
# and the options of the full network.
FAMILIES: Registry[Callable[..., nn.Module]] = Registry("family of networks")
FAMILIES.register("wide_resnet")(thin_wide_resnet)


def reduced(family: str, budget: int, **options: Any) -> nn.Module:
    """Build the thinner network of a family whose parameter count is closest to a budget and not above it.

    Args:
        family: A name in ``FAMILIES``.
        budget: The largest number of trainable parameters that it may have.
        **options: The options of the family's full network.

    Raises:
        ConfigError: If the family is unknown.
        BudgetError: If even the thinnest network is larger than the budget.
    """
    return reduce_width(partial(FAMILIES[family], **options), budget)


@FAMILIES.register("resnet")
def resnet(factor: float, depth: int, width: float = 1.0, **options: Any) -> ResNet:
    """Scale the channels of the stages, which the first convolution shares."""
    return ResNet(depth, width * factor, **options)


@FAMILIES.register("densenet")
def densenet(factor: float, depth: int, growth: float, stem: int = 16, **options: Any) -> DenseNet:
    """Scale the growth, which each layer rounds by itself and which stays above 1, and the first convolution."""
    return DenseNet(depth, max(1.0, growth * factor), stem=scaled_width(stem, factor), **options)


@FAMILIES.register("vgg")
def vgg(factor: float, depth: int = 16, width: float = 1.0, **options: Any) -> VGG:
    """Scale the channels of the stages."""
    return VGG(depth, width * factor, **options)


@FAMILIES.register("googlenet")
def googlenet(factor: float, width: float = 1.0, **options: Any) -> GoogLeNet:
    """Scale the channels of every convolution."""
    return GoogLeNet(width * factor, **options)


@FAMILIES.register("vit")
def vit(
    factor: float,
    embed_dim: int = 384,
    num_heads: int = 6,
    mlp_ratio: float = 4.0,
    in_channels: int = 3,
    **options: Any,
) -> VisionTransformer:
    """Scale the heads' dimension, of which the embedding has one per head, and the MLPs' hidden width."""
    thin_dim = num_heads * scaled_width(embed_dim // num_heads, factor)
    hidden = scaled_width(int(embed_dim * mlp_ratio), factor)
    # timm rounds the embedding's dimension times this ratio down.
    sizes: dict[str, Any] = {"embed_dim": thin_dim, "num_heads": num_heads, "mlp_ratio": (hidden + 0.5) / thin_dim}
    return VisionTransformer(in_chans=in_channels, **sizes, **options)


@FAMILIES.register("bert")
def bert(
    factor: float,
    hidden_size: int = 768,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    architecture: Callable[[BertConfig], nn.Module] = BertModel,
    **options: Any,
) -> nn.Module:
    """Scale the heads' dimension, of which the hidden state has one per head, and the intermediate width."""
    config = BertConfig(
        hidden_size=num_attention_heads * scaled_width(hidden_size // num_attention_heads, factor),
        num_attention_heads=num_attention_heads,
        intermediate_size=scaled_width(intermediate_size, factor),
        **options,
    )
    return architecture(config)
