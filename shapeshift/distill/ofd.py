"""Overhaul of feature distillation: features before their ReLU, with a margin for the teacher's negative values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill.base import DISTILLERS, TeacherStudent, at_least_float32
from shapeshift.distill.connector import Connector
from shapeshift.distill.features import Feature
from shapeshift.distill.ignored import ignores_some
from shapeshift.distill.pairs import Layers, pair_stages
from shapeshift.distill.recorder import Pass
from shapeshift.errors import ModelError
from shapeshift.running.batches import device_of

_TAIL = 1e-3  # below this share of negative values their mean is three standard deviations below the mean


def margins(scale: Tensor, shift: Tensor) -> Tensor:
    """Return the mean negative value of each channel: E[X | X < 0] for X normal with a given mean and deviation.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, section 3.2, the margin of their
    ReLU, from a batch norm's parameters. Where less than 0.1% of a channel is negative, the margin is -3 times the
    deviation. Where the deviation is 0, it is the mean if that is negative, and else 0.

    Args:
        scale: The scale of a normalisation, of shape (C,); its magnitude is the deviation.
        shift: The shift of the normalisation, of shape (C,), which is the mean.

    Returns:
        The margins, float32 of shape (C,), computed in float64.
    """
    deviation, mean = scale.detach().double().abs(), shift.detach().double()
    ratio = mean / deviation  # infinite or NaN for a deviation of 0; both choices below are right there
    density = torch.exp(-(ratio**2) / 2) / (2 * torch.pi) ** 0.5
    share = torch.special.ndtr(-ratio)
    return torch.where(share > _TAIL, mean - deviation * density / share, -3 * deviation).float()


def partial_l2(source: Tensor, target: Tensor, margin: Tensor) -> Tensor:
    """Return the sum of squared differences from a teacher's feature, where it is positive or the student exceeds it.

    Heo et al., ICCV 2019, section 3.2, the partial L2 distance.

    Args:
        source: The student's feature after its connector, of shape (N, C, rows, columns).
        target: The teacher's feature before its ReLU, of the same shape; values below the margin are raised to it.
        margin: The margin of each channel, of a shape that broadcasts, such as (1, C, 1, 1).
    """
    target = torch.max(target, margin)
    counts = (source > target) | (target > 0)
    # Elsewhere the student is its own target. torch.lerp is exact at 0 and 1, and faster than torch.where on a CPU.
    target = torch.lerp(source.detach(), target, counts.to(target.dtype))
    return F.mse_loss(source, target, reduction="sum")


@DISTILLERS.register("ofd")
class OFD(TeacherStudent):
    """Overhaul of feature distillation (Heo et al., ICCV 2019, section 3).

    Compares features before the ReLU at the end of each stage. The student's pass through a 1x1 convolution and a batch
    norm, and the teacher's negative values are raised to a margin. The loss is their squared difference, except where
    the teacher is negative and the student is below it. Each stage counts half as much as the next one.

    The margin comes from the scale and shift of the teacher's normalisation at that place. Those of a batch norm are
    the deviation and the mean of each channel, as in the paper; those of a layer norm or RMS norm are used in the same
    way. If the teacher has no normalisation there, the margin is measured: it is the mean negative value of each
    channel in the batch ``example``.

    Args:
        teacher: The trained model.
        student: The model to train.
        layers: The places to read, from the first stage to the last: dotted names for both models, or pairs of one name
            for the teacher and one for the student. A ReLU is read at its input, any other module at its output. None
            finds the ends of the stages.
        weight: The factor of the loss.
        scale: The factor of the sum over all entries, per image. The authors use 1/1000 on CIFAR and 1/10000 on
            ImageNet, whose features are larger.
        example: A batch that both models take. None makes one up from the teacher's first layer. A teacher without
            normalisations needs a batch of the training data.
        autocast: The dtype in which the teacher runs under autocast. None runs it as the surrounding code does.

    Raises:
        ConfigError: If ``layers`` is neither a list of names nor one of pairs, such as a single string.
        ModelError: If a name is no layer, the stages differ in number or resolution, the teacher has no normalisation
            at one of the places and there is no ``example``, or teacher and student are the same model. Neither model
            has hooks then.

    Example:
        >>> import torch
        >>> from shapeshift.distill import OFD
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> teacher, student = WideResNet(10, 0.5), WideResNet(10, 0.25)
        >>> x = torch.randn(4, 3, 32, 32)
        >>> with OFD(teacher, student) as distiller:
        ...     logits = student(x)
        ...     loss = distiller(x)
        >>> loss.shape, len(distiller.connectors)
        (torch.Size([]), 3)
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
        targets, features = zip(*pairs, strict=True)
        without = [target for target in targets if _scale_and_shift(target) is None]
        if without and example is None:
            raise ModelError(
                "OFD takes the margin of a feature from the normalisation before it, and the teacher has none before "
                f"{without[0]}. Give a batch of the training data as example=, in which the margin is measured, name "
                "layers after a normalisation as layers=, or use SRRL or KD, which need no margin"
            )
        super().__init__(teacher, student, targets, features, autocast)
        self.weight = weight
        self.scale = scale
        device = device_of(student)
        self.connectors = nn.ModuleList(
            Connector(feature.channels, target.channels, rectified=False) for target, feature in pairs
        ).to(device)
        for index, target in enumerate(targets):
            self.register_buffer(f"margin{index}", torch.zeros(1, target.channels, 1, 1, device=device), False)
        if without:
            self.run_teacher(example)
            for index, maps in enumerate(self._teacher_recorder.take().features):
                self.get_buffer(f"margin{index}").copy_(_mean_negative(maps).view(1, -1, 1, 1))
        self._targets = targets
        self._read: list[tuple[int, int | None]] | None = None  # the tensors that the margins come from
        self._update_margins()

    @torch.no_grad()
    def _update_margins(self) -> None:
        """Compute the margins from the teacher's normalisations again, if these have changed, as after a load."""
        pairs = [_scale_and_shift(target) for target in self._targets]
        tensors = [tensor for pair in pairs if pair is not None for tensor in pair if tensor is not None]
        read = [(id(tensor), None if tensor.is_inference() else tensor._version) for tensor in tensors]
        if read == self._read:
            return
        self._read = read
        for index, (target, pair) in enumerate(zip(self._targets, pairs, strict=True)):
            if pair is not None:
                ones = torch.ones(target.channels)
                scale, shift = pair
                found = margins(ones if scale is None else scale, ones * 0 if shift is None else shift)
                self.get_buffer(f"margin{index}").copy_(found.view(1, -1, 1, 1))

    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Sum :func:`partial_l2` over the stages, each divided by 2 for every stage after it.

        Positions that ``y`` labels with -100 are left out, and so are samples without any other label.
        """
        self._update_margins()
        y = y if ignores_some(y) else None
        count = len(self.connectors)
        images: int | Tensor = len(student.features[0])
        losses = []
        for index, connector in enumerate(self.connectors):
            maps, target = student.features[index], teacher.features[index]
            counts = self.counted(y, (len(maps), *maps.shape[2:]))
            source = at_least_float32(connector(maps, counts))
            target = target.to(source.dtype)
            if counts is not None:
                # What the connector returns is 0 there too, and no margin is above 0.
                target = torch.where(counts[:, None], target, 0)
                images = counts.flatten(1).any(1).sum().clamp(min=1)
            loss = partial_l2(source, target, getattr(self, f"margin{index}").to(source.dtype))
            losses.append(loss / 2 ** (count - 1 - index))
        return torch.stack(losses).sum() * (self.weight * self.scale / images)


def _scale_and_shift(feature: Feature) -> tuple[Tensor | None, Tensor | None] | None:
    """Return the scale and shift of the normalisation before a feature; None if there is no normalisation."""
    norm = feature.norm
    scale, shift = (getattr(norm, name, None) for name in ("weight", "bias"))
    return None if norm is None or (scale is not None and scale.numel() != feature.channels) else (scale, shift)


def _mean_negative(maps: Tensor) -> Tensor:
    """Return the mean negative value of each channel of a batch of maps, of shape (C,); 0 if no value is negative."""
    maps = at_least_float32(maps)
    return maps.clamp(max=0).sum((0, 2, 3)) / (maps < 0).sum((0, 2, 3)).clamp(min=1)
