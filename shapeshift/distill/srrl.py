"""Softmax regression representation learning: the student's feature is read by the teacher's own classifier."""

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
    """Compare the means of each channel over positions: their squared differences, the mean over images and channels.

    Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning", ICLR 2021, section 3, the
    feature matching loss L_FM as their implementation has it.

    Args:
        connected: the student's feature after its connector, of shape (N, C, rows, columns).
        target: the teacher's feature, of shape (N, C, rows, columns); its resolution may be another one.
    """
    return ((connected.mean((2, 3)) - target.mean((2, 3))) ** 2).mean()


def match_softmax_regression(connected: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compare what the teacher's classifier makes of both features: the mean squared difference of the logits.

    Yang et al., ICLR 2021, section 3, the softmax regression loss L_SR as a squared difference.

    Args:
        connected: the student's features after the connector, of shape (N, C).
        target: the teacher's, of the same shape.
        weight: of the teacher's classifier, of shape (classes, C).
        bias: of shape (classes,), or None.
    """
    with torch.autocast(connected.device.type, enabled=False):
        return F.mse_loss(F.linear(connected, weight, bias), F.linear(target, weight, bias))


@DISTILLERS.register("srrl")
class SRRL(TeacherStudent):
    """Softmax regression representation learning (Yang et al., ICLR 2021).

    The student's last feature passes a connector of a 1x1 convolution, a batch norm and a ReLU, the latter only where
    the teacher's feature comes from one. The result is compared with the teacher's last feature, and read by the
    teacher's own classifier, whose logits are compared with those of the teacher.

    Where the classifier reads the mean of a map, as in most convolutional networks, the feature is that map. Where it
    reads anything else (a pooled token, or each token of a sequence), the feature is what it reads.

    Args:
        teacher: a trained model that ends in a linear classifier.
        student: the model to train.
        layers: where to read both: one name for both models, or a pair of a teacher's and a student's, in a list.
            Found by default.
        classifier: the dotted name of the teacher's classifier; found by default.
        weight: on the loss.
        alpha: on :func:`~shapeshift.distill.srrl.match_statistics`.
        beta: on :func:`~shapeshift.distill.srrl.match_softmax_regression`.
        example: a batch that both models take; made up from their first layers if None.
        autocast: see :class:`TeacherStudent`.

    Raises:
        ConfigError: if ``layers`` is a single string.
        ModelError: if a name is no layer, or there is no linear classifier that reads the teacher's feature. Nothing is
            hooked then.
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
                raise ModelError(f"layers: SRRL compares one feature, and {len(layers)} are named")
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
        self._head: tuple[Any] = (head.module,)  # in a tuple, as the teacher is
        self._reads_positions = _read(head).shape[1] > 1

    @staticmethod
    def _check(head: Call, target: Feature, feature: Feature) -> None:
        read = _read(head)
        if read.shape[-1] != target.channels:
            raise ModelError(
                f"the teacher's classifier {head.path} reads {read.shape[-1]} channels, and its feature is {target}: "
                "name the feature that it reads as layers=, or another classifier="
            )
        if read.shape[1] > 1 and target.resolution != feature.resolution:
            raise ModelError(
                f"the teacher's classifier {head.path} reads each position of {target}, and the student's feature "
                f"{feature} has others: name two layers of one resolution as layers=[(teacher's, student's)]"
            )

    def compare(self, teacher: Pass, student: Pass, y: Any) -> Tensor:
        """Add the losses of statistics and of softmax regression, weighted by alpha and beta."""
        connected = at_least_float32(self.connector(student.features[0]))
        target = teacher.features[0].to(connected.dtype)
        (head,) = self._head
        weight = head.weight.detach().to(connected.dtype)
        bias = None if head.bias is None else head.bias.detach().to(connected.dtype)
        ours, theirs = map(self._positions_or_mean, (connected, target))
        statistics = match_statistics(connected, target)
        regression = match_softmax_regression(ours, theirs, weight.flatten(1), bias)
        return self.weight * (self.alpha * statistics + self.beta * regression)

    def _positions_or_mean(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).movedim(1, 2) if self._reads_positions else maps.mean((2, 3))


def _named_feature(made: Trace, name: str, whose: str) -> Feature:
    call = named_call(made, name, "layers", whose)
    assert call.output is not None
    feature = locate(made, call.output)
    assert feature is not None
    return feature


def _find_classifier(made: Trace, whose: str, name: str | None = None) -> Call:
    """Return the call of the layer that makes the logits, which has to be linear."""
    call = find_classifier(made) if name is None else named_call(made, name, "classifier", whose)
    model = type(made.model).__name__
    if call is None:
        named = "its classifier as classifier=" if whose == "teacher" else "its last feature as layers="
        raise ModelError(f"no layer of the {whose}, {model}, makes logits: give it a head, or name {named}")
    weight, bias = getattr(call.module, "weight", None), getattr(call.module, "bias", None)
    if isinstance(weight, Tensor) and weight.dim() > 1 and call.output is not None:
        weight, read = weight.detach().flatten(1), _read(call)
        if read.shape[-1] == weight.shape[1]:
            # In the weight's precision: what a model computes under autocast is in a lower one.
            made_here = F.linear(read.to(weight.dtype), weight, None if bias is None else bias.detach())
            logits = call.output.tensor.reshape(-1).to(weight.dtype)
            if made_here.numel() == len(logits) and _agree(made_here.reshape(-1), logits):
                return call
    named = "the name of one as classifier=, or of the features as layers=" if whose == "teacher" else "layers="
    raise ModelError(f"{call.path} of the {whose}, {model}, is no linear classifier: give {named}")


def _read(head: Call) -> Tensor:
    """Return what a classifier read, of shape (N, positions, C)."""
    assert head.input is not None
    tensor = head.input.tensor
    channels_last = tensor.movedim(1, -1) if tensor.dim() == 4 else tensor
    return channels_last.reshape(len(tensor), -1, channels_last.shape[-1])


def _last_feature(made: Trace, head: Call) -> Feature:
    """Find the map whose mean over positions a classifier reads; what it reads itself if there is none."""
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
    """Tell whether two tensors are the same, but for the rounding of a half precision."""
    difference = torch.linalg.vector_norm((first - second).float())
    return bool(difference <= _ROUNDING * torch.linalg.vector_norm(second.float()))
