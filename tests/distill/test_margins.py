"""The margins of OFD: from the teacher's normalisations, or measured where it has none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from shapeshift import ModelError
from shapeshift.distill import OFD
from shapeshift.distill.ofd import margins, partial_l2
from shapeshift.networks.wide_resnet import WideResNet
from tests.teachers import CLASSES, hooks, images
from tests.tolerances import assert_close


def without_norms(width: int) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    more = [nn.MaxPool2d(2), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 5)]
    return nn.Sequential(*layers, *more)


def test_margins_are_measured_where_the_teacher_has_no_norm() -> None:
    teacher, student, x = without_norms(8).eval(), without_norms(4), images()
    distiller = OFD(teacher, student, ["3", "6"], example=x, scale=1.0)
    features = [teacher[:3](x), teacher[:6](x)]
    student(x)
    kept = [feature.clone() for feature in distiller._student_recorder._kept.values() if feature.dim() == 4]
    expected = 0.0
    for index, (feature, own) in enumerate(zip(features, kept, strict=True)):
        columns = feature.movedim(1, 0).flatten(1)
        margin = torch.stack([column[column < 0].mean() for column in columns]).nan_to_num(0).view(1, -1, 1, 1)
        assert_close(distiller.get_buffer(f"margin{index}"), margin.detach(), "reordered")
        expected = expected + partial_l2(distiller.connectors[index](own), feature.detach(), margin) / 2 ** (1 - index)
    assert_close(distiller(x), expected / len(x), "reordered")


def test_a_channel_without_negative_values_has_the_margin_zero() -> None:
    teacher, student, x = without_norms(8).eval(), without_norms(4), images()
    nn.init.constant_(teacher[2].bias, 100.0)
    distiller = OFD(teacher, student, ["3"], example=x)
    assert (distiller.margin0 == 0).all()


def test_made_up_images_are_no_data_to_measure_margins_in() -> None:
    teacher, student = (nn.Sequential(nn.Upsample((16, 16)), without_norms(width)) for width in (8, 4))
    with pytest.raises(ModelError, match="Give a batch of the training data as example="):
        OFD(teacher, student, ["1.3"])
    assert not hooks(teacher, student)


@pytest.mark.parametrize("assign", [False, True])
def test_margins_follow_a_teacher_that_is_loaded_later(assign: bool) -> None:
    trained, student, x = WideResNet(10, 0.5, CLASSES).eval(), WideResNet(10, 0.25, CLASSES).eval(), images()
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    teacher = WideResNet(10, 0.5, CLASSES)
    distiller, expected = OFD(teacher, student).eval(), OFD(trained, student).eval()
    expected.load_state_dict(distiller.state_dict())
    student(x)
    distiller(x)
    teacher.load_state_dict(copy.deepcopy(trained.state_dict()), assign=assign)
    student(x)
    assert_close(distiller(x), expected(x), "identical")
    assert_close(distiller.margin2.flatten(), margins(trained.norm.weight, trained.norm.bias), "identical")


def test_a_norm_without_scale_and_shift_is_a_standard_normal() -> None:
    teacher, student = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)) for _ in range(2))
    distiller = OFD(teacher, student, ["1"], example=images())
    assert_close(distiller.margin0.flatten(), margins(torch.ones(4), torch.zeros(4)), "identical")
