"""The networks for images of 32 pixels as models of timm: ``timm.create_model("wrn_28_10", num_classes=100)``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, checkpoint_seq, register_model
from torch import Tensor, nn

from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.googlenet import GoogLeNet
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.vgg import VGG
from shapeshift.networks.wide_resnet import WideResNet

SIDE = 32  # the side in pixels of the networks' images


class Classifier(nn.Module):
    """The interface of timm's models, for a network whose children run one after another: features, pooling and a head.

    It is a mixin: a class derives from it and from a network. A feature is the output of the last step at a resolution.

    Args:
        in_chans: The number of channels of the images.
        num_classes: The number of classes. With 0 the model has no head, and returns the pooled features.
        drop_rate: The probability of dropping an entry of the pooled features before the head.
        **options: Options of the network, such as ``depth``.

    Example:
        >>> import timm
        >>> import torch
        >>> import shapeshift.integrations.timm
        >>> from shapeshift.integrations.timm.networks import Classifier
        >>> model = timm.create_model("cifar_resnet20", num_classes=5)
        >>> isinstance(model, Classifier)
        True
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    pool: Any
    head: Any

    def __init__(self, in_chans: int = 3, num_classes: int = 10, drop_rate: float = 0.0, **options: Any) -> None:
        super().__init__(in_channels=in_chans, num_classes=num_classes or 1, **options)
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.num_features: int = self.head.in_features
        self.head_hidden_size = self.num_features
        self.reset_classifier(num_classes, fresh=False)
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": shape[1], "reduction": SIDE // shape[-1], "module": name} for name, shape in self._features()
        ]

    def steps(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules before the pooling by name, in the order of the forward pass, one level into containers."""
        for name, child in itertools.takewhile(lambda found: found[1] is not self.pool, self.named_children()):
            if type(child) is nn.Sequential:
                yield from ((f"{name}.{inner}", step) for inner, step in child.named_children())
            else:
                yield name, child

    def _features(self) -> list[tuple[str, torch.Size]]:
        """Return the last step at each resolution, and the shape of its output."""
        x = torch.empty(1, self.in_chans, SIDE, SIDE, device="meta")
        shapes = {}
        for name, step in self.steps():
            state = {key: tensor.to("meta") for key, tensor in step.state_dict().items()}
            x = torch.func.functional_call(step, state, (x,))
            shapes[name] = x.shape
        last = {shape[-1]: (name, shape) for name, shape in shapes.items()}
        return list(last.values())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turn gradient checkpointing on or off: activations are computed again in the backward pass, and not kept."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        head: nn.Module = self.head
        return head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, fresh: bool = True) -> None:
        """Replace the head.

        Args:
            num_classes: The number of classes. With 0 the model has no head.
            global_pool: None or "avg".
            fresh: Whether to make a new head. Otherwise the present head stays, unless ``num_classes`` is 0.

        Raises:
            ValueError: if another pooling is asked for.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"{type(self).__name__} pools by the average, not by {global_pool!r}")
        self.num_classes = num_classes
        if not num_classes:
            self.head = nn.Identity()
        elif fresh:
            like = next(self.parameters())
            self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return intermediate features, as ``forward_intermediates`` of timm's models does.

        Args:
            x: Images of shape (N, C, H, W).
            indices: The indices of the features, or the number of last features, or None for all.
            norm: Ignored. timm's other models have this argument.
            stop_early: Whether to stop after the last requested feature.
            output_fmt: "NCHW".
            intermediates_only: Whether to return the features only.

        Returns:
            The output of the last step and the list of features, or the list only.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"the features have the layout NCHW, not {output_fmt!r}")
        known = [info["module"] for info in self.feature_info]
        count = len(known) if indices is None else indices
        names = known[-count:] if isinstance(count, int) else [known[index] for index in count]
        found: dict[str, Tensor] = {}
        for name, step in self.steps():
            x = self._run(step, x)
            if name in names:
                found[name] = x
            if stop_early and len(found) == len(set(names)):
                break
        intermediates = [found[name] for name in names]
        return intermediates if intermediates_only else (x, intermediates)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the input of the pooling, of shape (N, C, H, W)."""
        for _, step in self.steps():
            x = self._run(step, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits for the output of :meth:`forward_features`; with ``pre_logits``, the input of the head."""
        pooled = F.dropout(torch.flatten(self.pool(x), 1), self.drop_rate, self.training)
        logits: Tensor = pooled if pre_logits else self.head(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _run(self, step: nn.Module, x: Tensor) -> Tensor:
        # A step without weights, such as a pooling, keeps few activations.
        kept = not self.grad_checkpointing or next(step.parameters(), None) is None
        out: Tensor = step(x) if kept else checkpoint_seq(step if type(step) is nn.Sequential else [step], x)
        return out


class SmallWideResNet(Classifier, WideResNet):
    """A :class:`~shapeshift.networks.wide_resnet.WideResNet` as a model of timm."""


class SmallResNet(Classifier, ResNet):
    """A :class:`~shapeshift.networks.resnet.ResNet` as a model of timm."""


class SmallVGG(Classifier, VGG):
    """A :class:`~shapeshift.networks.vgg.VGG` as a model of timm."""


class SmallDenseNet(Classifier, DenseNet):
    """A :class:`~shapeshift.networks.densenet.DenseNet` as a model of timm."""


class SmallGoogLeNet(Classifier, GoogLeNet):
    """A :class:`~shapeshift.networks.googlenet.GoogLeNet` as a model of timm."""


# For each name: the class, its arguments, the first convolution and the number of resolutions.
NETWORKS: dict[str, tuple[type[Classifier], dict[str, Any], str, int]] = {
    **{
        f"wrn_{depth}_{width}": (SmallWideResNet, {"depth": depth, "width": width}, "stem", 3)
        for depth, width in ((16, 1), (16, 4), (16, 8), (28, 10), (40, 2), (40, 4))
    },
    **{f"cifar_resnet{depth}": (SmallResNet, {"depth": depth}, "stem", 3) for depth in (20, 32, 44, 56, 110)},
    "cifar_vgg16": (SmallVGG, {"depth": 16}, "stages.0.0.conv", 5),
    "cifar_densenet40": (SmallDenseNet, {"depth": 40, "growth": 12}, "features.stem", 3),
    "cifar_googlenet": (SmallGoogLeNet, {}, "stem.conv", 3),
}

# timm's registry reads the data configuration of a module's models from this name. There are no trained weights.
default_cfgs: dict[str, dict[str, Any]] = {
    name: {
        "input_size": (3, SIDE, SIDE),
        "num_classes": 10,
        "crop_pct": 1.0,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "first_conv": first_conv,
        "classifier": "head",
    }
    for name, (_, _, first_conv, _) in NETWORKS.items()
}


def build_network(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a network for images of 32 pixels; ``timm.create_model(name, ...)`` calls this.

    Args:
        name: A key of ``NETWORKS``.
        pretrained: Whether to load weights. Their file has to be given (``pretrained_cfg_overlay={"file": ...}``).
        **options: Options of :class:`Classifier`, of the network (``depth``, ``width``) and of timm.
    """
    network, defaults, _, resolutions = NETWORKS[name]
    features = {"out_indices": tuple(range(resolutions)), "flatten_sequential": True}
    model: nn.Module = build_model_with_cfg(network, name, pretrained, feature_cfg=features, **(defaults | options))
    return model


def register_networks() -> None:
    """Register the networks with timm."""
    for name in NETWORKS:
        if not timm.is_model(name):
            entry_point = partial(build_network, name)
            entry_point.__name__, entry_point.__module__ = name, __name__  # type: ignore[attr-defined]
            globals()[name] = register_model(entry_point)  # timm appends the name to __all__
