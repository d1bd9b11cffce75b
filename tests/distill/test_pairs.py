"""The layers of teacher and student that are compared: by name, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift import ConfigError, ModelError
from shapeshift.distill import KD, OFD, SRRL
from shapeshift.networks.wide_resnet import WideResNet
from tests.teachers import (
    CLASSES,
    gpt2,
    hf_resnet,
    hooks,
    images,
    timm_resnet,
    timm_vit,
)
from tests.tolerances import assert_close


class Functional(nn.Module):
    """A residual network whose ReLU is a function of a sum, so that no module sees the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, stride, 1) for stride in (1, 2, 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            branch = norm(conv(x))
            x = F.relu(branch + x[:, :, :: conv.stride[0], :: conv.stride[0]])
        return self.head(x.mean((2, 3)))


class TestErrors:
    def test_stages_that_differ_in_number_or_resolution_name_both_lists(self) -> None:
        with pytest.raises(
            ModelError, match=r"do not match.*Teacher: .*norm.*16 x 16.*Student: .*layer1\.0\.act2.*8 x 8"
        ):
            OFD(WideResNet(10, 1), timm_resnet(8, 8, 8, 16))
        four, three = timm_resnet(8, 8, 8, 16), hf_resnet(1, 8)
        with pytest.raises(ModelError, match=r"Teacher: .*layer4.*Student: .*encoder\.stages\.2"):
            OFD(four, three)
        with pytest.raises(ModelError, match=r"Teacher: .*2 x 2.*Student: .*4 x 4"):
            OFD(four, timm_resnet(8, 8, 8, 16), layers=[("layer4", "layer3")])
        assert not hooks(four, three)

    @pytest.mark.parametrize("method", [OFD, SRRL])
    def test_a_wrong_name_says_what_comes_close(self, method: type[OFD | SRRL]) -> None:
        teacher, student = timm_resnet(8, 8, 8, 16), timm_resnet(8, 8, 8, 8)
        with pytest.raises(ModelError, match=r"'layer5' is no layer of the teacher, ResNet; did you mean .*'layer4'"):
            method(teacher, student, layers=["layer5"])
        with pytest.raises(ModelError, match=r"'layr4' is no layer of the student, ResNet; did you mean 'layer4'"):
            method(teacher, student, layers=[("layer4", "layr4")])
        with pytest.raises(ConfigError, match="layers must be a list of names or of pairs of names, not 'layer4'"):
            method(teacher, student, layers="layer4")
        with pytest.raises(ConfigError, match=r"not \[\('layer4', 'layer4', 'layer4'\)\]"):
            method(teacher, student, layers=[("layer4", "layer4", "layer4")])
        with pytest.raises(ModelError, match="'head' is no layer of the teacher"):
            SRRL(teacher, student, classifier="head")
        assert not hooks(teacher, student)

    def test_a_relu_that_no_module_sees(self) -> None:
        teacher, student = Functional(), Functional()
        with pytest.raises(ModelError, match=r"of Functional ends in a ReLU that is used as a function.*nn\.ReLU"):
            OFD(teacher, student)
        assert not hooks(teacher, student)

    def test_a_margin_without_a_norm(self) -> None:
        with pytest.raises(ModelError, match=r"margin .* none before stages\.0.*SRRL or KD"):
            OFD(*(timm.create_model("nf_resnet26", num_classes=CLASSES) for _ in range(2)))

    def test_a_classifier_that_is_not_linear(self) -> None:
        teacher, student = nn.Sequential(nn.Linear(8, 4), nn.PReLU(4)), nn.Linear(8, 4)
        with pytest.raises(ModelError, match=r"layers=, or another classifier=|is no linear classifier"):
            SRRL(teacher, student, classifier="1")

    @pytest.mark.parametrize("build", [lambda: timm_resnet(8, 8, 8, 16), lambda: timm_vit(2, 16)])
    def test_srrl_of_a_model_without_a_head(self, build: Callable[[], Any]) -> None:
        teacher, student = build(), build()
        teacher.reset_classifier(0)
        with pytest.raises(ModelError, match=r"no layer of the teacher, \w+, makes logits: .* classifier="):
            SRRL(teacher, student)
        with pytest.raises(ModelError, match=r"no layer of the student, \w+, makes logits: .* layers="):
            SRRL(student, teacher)
        assert not hooks(teacher, student)

    def test_srrl_takes_one_layer_of_the_classifiers_channels(self) -> None:
        teacher, student = WideResNet(10, 0.5), WideResNet(10, 0.25)
        with pytest.raises(ModelError, match="2 are named"):
            SRRL(teacher, student, layers=["norm", "relu"])
        with pytest.raises(ModelError, match=r"classifier head reads 32 channels, and its feature is stem"):
            SRRL(teacher, student, layers=["stem"])

    def test_an_example_that_a_model_does_not_take(self) -> None:
        with pytest.raises(ModelError, match=r"GPT2LMHeadModel fails on an example input .*example="):
            OFD(WideResNet(10, 0.5), gpt2(2, 16))
        with pytest.raises(ModelError, match="give a batch as example="):
            OFD(nn.Identity(), nn.Identity())

    def test_one_model_as_both(self) -> None:
        model = WideResNet(10, 0.25)
        with pytest.raises(ModelError, match=r"one WideResNet.*deepcopy"):
            KD(model, model)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
    def test_a_temperature_that_is_not_positive(self, temperature: float) -> None:
        with pytest.raises(shapeshift.ConfigError, match="temperature"):
            KD(nn.Linear(2, 2), nn.Linear(2, 2), temperature=temperature)

    def test_logits_that_cannot_be_compared(self) -> None:
        for classes, other, message in ((3, 4, r"\(2, 3\).*\(2, 4\)"), (1, 1, "several classes")):
            student = nn.Linear(4, other)
            distiller = KD(nn.Linear(4, classes), student)
            student(torch.ones(2, 4))
            with pytest.raises(ModelError, match=message):
                distiller(torch.ones(2, 4))


class TestLayersByName:
    def test_of_a_relu_what_enters_and_of_others_what_leaves(self) -> None:
        teacher, student, x = timm_resnet(8, 8, 8, 16), timm_resnet(8, 8, 8, 8), images(64)
        named = [f"layer{stage}" for stage in (1, 2, 3)] + [("layer4.0.act2", "layer4.0.act2")]
        losses = []
        for layers in (None, named):
            torch.manual_seed(2)
            with OFD(teacher, student.eval(), layers) as distiller:
                student(x)
                losses.append(distiller(x).detach())
                places = [(place.path, place.side) for place in distiller._teacher_recorder.features]
        # What a stage returns is behind its ReLU; of a ReLU, what enters it is read.
        assert places == [
            ("layer1.0", "output"),
            ("layer2.0", "output"),
            ("layer3.0", "output"),
            ("layer4.0.act2", "input"),
        ]
        assert losses[0] != losses[1]

        relus = ["layer1.0.act2", "layer2.0.act2", "layer3.0.act3", "layer4.0.act2"]
        torch.manual_seed(2)
        with OFD(teacher, student.eval(), relus) as distiller:
            student(x)
            assert_close(distiller(x).detach(), losses[0], "identical")

    def test_srrl_reads_the_layer_and_the_classifier_that_are_named(self) -> None:
        teacher, student, x = WideResNet(10, 0.5), WideResNet(10, 0.25), images()
        named = SRRL(teacher, student, [("pool", "norm")], "head")
        assert [named._teacher_recorder.features[0].path, named._student_recorder.features[0].path] == ["pool", "norm"]
        student(x)
        named(x).backward()
        assert student.head.weight.grad is None
        assert student.norm.weight.grad.any()
