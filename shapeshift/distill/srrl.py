"""Softmax regression representation learning: the teacher's own classifier reads the student's feature."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill.base import DISTILLERS, TeacherStudent, at_least_float32
from shapeshift.distill.connector import Connector
from shapeshift.distill.features import Feature, locate
from shapeshift.distill.pairs import Layers, named_call, split_names, trace_both
from shapeshift.distill.recorder import Pass
from shapeshift.distill.stages import find_classifier
from shapeshift.distill.trace import Call, Trace
from shapeshift.errors import ModelError
from shapeshift.running.batches import device_of

_ROUNDING = 0.02  # relative: bfloat16 has 8 bits


def match_statistics(connected: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference, over images and channels, of two features' means over positions.

    Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning", ICLR 2021, section 3, the
    feature matching loss L_FM as in their implementation.

    Args:
        connected: The student's feature after its connector, of shape (N, C, rows, columns).
        target: The teacher's feature, of shape (N, C, rows, columns); rows and columns may differ from the student's.
    """
    return ((connected.mean((2, 3)) - target.mean((2, 3))) ** 2).mean()


def match_softmax_regression(connected: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the mean squared difference of the logits that the teacher's classifier makes of two features.

    Yang et al., ICLR 2021, section 3, the softmax regression loss L_SR as a squared difference.

    Args:
        connected: The student's features after the connector, of shape (N, C).
        target: The teacher's features, of shape (N, C).
        weight: The weight of the teacher's classifier, of shape (classes, C).
        bias: The bias of the classifier, of shape (classes,), or None.
    """
    with torch.autocast(connected.device.type, enabled=False):
        return F.mse_loss(F.linear(connected, weight, bias), F.linear(target, weight, bias))


@DISTILLERS.register("srrl")
class SRRL(TeacherStudent):
    """Softmax regression representation learning (Yang et al., ICLR 2021, section 3).

    The student's last feature passes through a connector: a 1x1 convolution, a batch norm, and a ReLU if the teacher's
    feature comes from one. The loss compares the result with the teacher's last feature, and the logits that the
    teacher's own classifier makes of both.

    Where the classifier reads the mean of a map, as in most convolutional networks, the feature is that map. Otherwise
    it is the input of the classifier, such as a pooled token, or each token of a sequence.

    Args:
        teacher: The trained model, which ends in a linear classifier.
        student: The model to train.
        layers: The place to read, in a list: one dotted name for both models, or a pair of one name for the teacher and
            one for the student. None finds it.
        classifier: The dotted name of the teacher's classifier. None finds it.
        weight: The factor of the loss.
        alpha: The factor of :func:`~shapeshift.distill.srrl.match_statistics`.
        beta: The factor of :func:`~shapeshift.distill.srrl.match_softmax_regression`.
        example: A batch that both models take. None makes one up from the teacher's first layer.
        autocast: The dtype in which the teacher runs under autocast. None runs it as the surrounding code does.

    Raises:
        ConfigError: If ``layers`` is neither a list of names nor one of pairs, such as a single string.
        ModelError: If a name is no layer, no linear classifier reads the teacher's feature, or teacher and student are
            the same model. Neither model has hooks then.

    Example:
        >>> import torch
        >>> from shapeshift.distill import SRRL
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> teacher, student = WideResNet(10, 0.5), WideResNet(10, 0.25)
        >>> x = torch.randn(4, 3, 32, 32)
        >>> with SRRL(teacher, student) as distiller:
        ...     logits = student(x)
        ...     loss = distiller(x)
        >>> loss.shape, distiller.connector.conv
        (torch.Size([]), Conv2d(16, 32, kernel_size=(1, 1), stride=(1, 1), bias=False))
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        layers: Layers = None,
        classifier: str | None = None,
        weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        example: Any = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        passes = trace_both(teacher, student, example)
        head = _find_classifier(passes[0], "teacher", classifier)
        if layers is None:
            target = _last_feature(passes[0], head)
            feature = _last_feature(passes[1], _find_classifier(passes[1], "student"))
        else:
            names = split_names(layers)
            if len(layers) != 1:
                raise ModelError(f"layers: SRRL compares one feature, and {len(layers)} are named; give a list of one")
            target, feature = (
                _named_feature(made, name, whose)
                for made, (name,), whose in zip(passes, names, ("teacher", "student"), strict=True)
            )
        self._check(head, target, feature)
        super().__init__(teacher, student, (target,), (feature,), autocast=autocast)
        self.weight = weight
        self.alpha = alpha
        self.beta = beta
        self.connector = Connector(feature.channels, target.channels, rectified=target.is_rectified)
        self.connector.to(device_of(student))
        self._head: tuple[Any] = (head.module,)  # in a tuple, where nn.Module does not look for submodules
        self._reads_positions = _read(head).shape[1] > 1

    @staticmethod
    def _check(head: Call, target: Feature, feature: Feature) -> None:
        read = _read(head)
        if read.shape[-1] != target.channels:
            raise ModelError(
                f"the teacher's classifier {head.path} reads {read.shape[-1]} channels, and its feature is {target}: "
                "name the feature that the classifier reads as layers=, or another classifier as classifier="
            )
        if read.shape[1] > 1 and target.resolution != feature.resolution:
            raise ModelError(
                f"the teacher's classifier {head.path} reads each position of {target}, and the student's feature is "
                f"{feature}: name two layers of the same resolution as layers=[(teacher's, student's)]"
            )

    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Return the sum of the losses of statistics and of softmax regression, with the factors alpha and beta.

        Positions that ``y`` labels with -100 are left out.
        """
        maps, target = student.features[0], teacher.features[0]
        counts, theirs = (self.counted(y, (len(every), *every.shape[2:])) for every in (maps, target))
        connected = at_least_float32(self.connector(maps, counts))
        if counts is not None and not counts.any():
            return self.weight * connected.sum()  # 0, with a graph to all that is trained
        target = target.to(connected.dtype)
        (head,) = self._head
        weight = head.weight.detach().to(connected.dtype)
        bias = None if head.bias is None else head.bias.detach().to(connected.dtype)
        means = _means(connected, counts), _means(target, theirs)
        read = (_positions(connected, counts), _positions(target, theirs)) if self._reads_positions else means
        statistics = match_statistics(*(mean[..., None, None] for mean in means))
        regression = match_softmax_regression(*read, weight.flatten(1), bias)
        return self.weight * (self.alpha * statistics + self.beta * regression)


def _means(maps: Tensor, counts: Tensor | None) -> Tensor:
    """Return the means over the positions that count, of shape (N, C), without samples that have none."""
    if counts is None:
        return maps.mean((2, 3))
    numbers = counts.sum((1, 2))
    sums = torch.where(counts[:, None], maps, 0).sum((2, 3))
    return sums[numbers > 0] / numbers[numbers > 0, None]


def _positions(maps: Tensor, counts: Tensor | None) -> Tensor:
    """Return the features at the positions that count, of shape (..., C)."""
    return maps.flatten(2).movedim(1, 2) if counts is None else maps.movedim(1, -1)[counts]


def _named_feature(made: Trace, name: str, whose: str) -> Feature:
    call = named_call(made, name, "layers", whose)
    assert call.output is not None
    feature = locate(made, call.output)
    assert feature is not None
    return feature


def _find_classifier(made: Trace, whose: str, name: str | None = None) -> Call:
    """Return the call of the layer that makes the logits, which must be linear."""
    call = find_classifier(made) if name is None else named_call(made, name, "classifier", whose)
    model = type(made.model).__name__
    if call is None:
        named = "its classifier as classifier=" if whose == "teacher" else "its last feature as layers="
        raise ModelError(f"no layer of the {whose}, {model}, makes logits: give it a head, or name {named}")
    weight, bias = getattr(call.module, "weight", None), getattr(call.module, "bias", None)
    if isinstance(weight, Tensor) and weight.dim() > 1 and call.output is not None:
        weight, read = weight.detach().flatten(1), _read(call)
        if read.shape[-1] == weight.shape[1]:
            # Compare in the precision of the weight: under autocast, the model computes in a lower one.
            made_here = F.linear(read.to(weight.dtype), weight, None if bias is None else bias.detach())
            logits = call.output.tensor.reshape(-1).to(weight.dtype)
            if made_here.numel() == len(logits) and _agree(made_here.reshape(-1), logits):
                return call
    named = "the name of one as classifier=, or of the features as layers=" if whose == "teacher" else "layers="
    raise ModelError(f"{call.path} of the {whose}, {model}, is no linear classifier: give {named}")


def _read(head: Call) -> Tensor:
    """Return the input of a classifier, of shape (N, positions, C)."""
    assert head.input is not None
    tensor = head.input.tensor
    channels_last = tensor.movedim(1, -1) if tensor.dim() == 4 else tensor
    return channels_last.reshape(len(tensor), -1, channels_last.shape[-1])


def _last_feature(made: Trace, head: Call) -> Feature:
    """Return the map whose mean over positions a classifier reads; the input of the classifier if there is none."""
    read = _read(head)
    for call in reversed(made.calls if read.shape[1] == 1 else []):
        feature = None if call.output is None or call.output.is_overwritten else locate(made, call.output)
        if feature is not None and feature.channels == read.shape[-1] and math.prod(feature.resolution) > 1:
            means = feature.as_maps(call.output.tensor).mean((2, 3))  # type: ignore[union-attr]
            if _agree(means, read[:, 0]):
                return feature
    assert head.input is not None
    feature = locate(made, head.input)
    assert feature is not None
    return feature


def _agree(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal up to the rounding of half precision."""
    difference = torch.linalg.vector_norm((first - second).float())
    return bool(difference <= _ROUNDING * torch.linalg.vector_norm(second.float()))
