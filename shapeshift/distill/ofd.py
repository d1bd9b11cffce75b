"""Overhaul of feature distillation: features before their ReLU, with a margin on what the teacher does not use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill.base import DISTILLERS, TeacherStudent, at_least_float32
from shapeshift.distill.connector import Connector
from shapeshift.distill.features import Feature
from shapeshift.distill.pairs import Layers, pair_stages
from shapeshift.distill.recorder import Pass
from shapeshift.errors import ModelError
from shapeshift.running.batches import device_of

_TAIL = 1e-3  # below this share of negative values their mean is three standard deviations below the mean


def margins(scale: Tensor, shift: Tensor) -> Tensor:
    """Return the mean of what is negative of each channel, E[X | X < 0] for X normal with a given mean and deviation.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, section 3.2, the margin of their
    ReLU, from a batch norm's parameters. Where less than 0.1% of a channel is negative, it is -3 times the deviation.

    Args:
        scale: what a normalisation multiplies each channel by, of shape (C,); its magnitude is the deviation.
        shift: what it adds, of shape (C,); the mean. A channel of deviation 0 is its mean where that is negative, and
            0 elsewhere.

    Returns:
        Float32 of shape (C,), computed in float64.
    """
    deviation, mean = scale.detach().double().abs(), shift.detach().double()
    ratio = mean / deviation  # infinite or no number for a deviation of 0, and both choices below hold there
    density = torch.exp(-(ratio**2) / 2) / (2 * torch.pi) ** 0.5
    share = torch.special.ndtr(-ratio)
    return torch.where(share > _TAIL, mean - deviation * density / share, -3 * deviation).float()


def partial_l2(source: Tensor, target: Tensor, margin: Tensor) -> Tensor:
    """Sum the squared differences from a teacher's feature, where it is positive or the student exceeds it.

    Heo et al., ICCV 2019, section 3.2, the partial L2 distance.

    Args:
        source: the student's feature after its connector, of shape (N, C, rows, columns).
        target: the teacher's feature before its ReLU, of the same shape; what is below the margin is raised to it.
        margin: of each channel, of a shape that broadcasts, such as (1, C, 1, 1).
    """
    target = torch.max(target, margin)
    counts = (source > target) | (target > 0)
    # Elsewhere the student is its own target. A lerp is exact at 0 and 1, and faster than a where on a CPU.
    target = torch.lerp(source.detach(), target, counts.to(target.dtype))
    return F.mse_loss(source, target, reduction="sum")


@DISTILLERS.register("ofd")
class OFD(TeacherStudent):
    """Overhaul of feature distillation (Heo et al., ICCV 2019).

    Features before the ReLU at the end of each stage are compared: the student's after a 1x1 convolution and a batch
    norm, the teacher's with its negative values raised to a margin, by a squared difference that leaves out where both
    are negative. A stage counts half as much as the next one.

    The margin comes from the scale and shift of the teacher's normalisation at that place. A batch norm's are the
    deviation and the mean of each channel, as in the paper; a layer norm's or RMS norm's are taken likewise, over
    positions.

    Args:
        teacher: a trained model.
        student: the model to train.
        layers: where to read both, from the first stage to the last: dotted names that are the same in both models, or
            pairs of a teacher's and a student's. Of a ReLU what enters it is read, of any other module what it returns.
            By default the ends of the stages are found.
        weight: on the loss.
        scale: on the sum over all entries, per image: the authors use 1/1000 on CIFAR and 1/10000 on ImageNet, whose
            features are larger.
        example: a batch that both models take; made up from their first layers if None.
        autocast: see :class:`TeacherStudent`.

    Raises:
        ConfigError: if ``layers`` is a single string.
        ModelError: if a name is no layer, the stages differ in number or resolution, or the teacher has no
            normalisation at one of the places. Nothing is hooked then.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        layers: Layers = None,
        weight: float = 1.0,
        scale: float = 1e-3,
        example: Any = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        pairs = pair_stages(teacher, student, layers, example)
        found = [_margins(target) for target, _ in pairs]
        targets, features = zip(*pairs, strict=True)
        super().__init__(teacher, student, targets, features, autocast)
        self.weight = weight
        self.scale = scale
        device = device_of(student)
        self.connectors = nn.ModuleList(
            Connector(feature.channels, target.channels, rectified=False) for target, feature in pairs
        ).to(device)
        for index, margin in enumerate(found):
            self.register_buffer(f"margin{index}", margin.view(1, -1, 1, 1).to(device), persistent=False)

    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Sum :func:`partial_l2` over the stages, each weighted by 1/2 for every stage behind it."""
        count = len(self.connectors)
        losses = []
        for index, connector in enumerate(self.connectors):
            source = at_least_float32(connector(student.features[index]))
            target = teacher.features[index].to(source.dtype)
            loss = partial_l2(source, target, getattr(self, f"margin{index}").to(source.dtype))
            losses.append(loss / 2 ** (count - 1 - index))
        return torch.stack(losses).sum() * (self.weight * self.scale / len(student.features[0]))


def _margins(feature: Feature) -> Tensor:
    """Return the margins of a teacher's feature, from the normalisation in front of it."""
    norm = feature.norm
    scale, shift = (getattr(norm, name, None) for name in ("weight", "bias"))
    if norm is None or (scale is not None and scale.numel() != feature.channels):
        raise ModelError(
            f"the margin of a feature comes from the scale and shift of its normalisation, and the teacher has none in "
            f"front of {feature}. Name layers behind one as layers=, or use SRRL or KD, which need no margin"
        )
    ones = torch.ones(feature.channels)
    return margins(ones if scale is None else scale, ones * 0 if shift is None else shift)
