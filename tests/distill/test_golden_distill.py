"""OFD and SRRL against golden numbers: margins, losses and gradients, through the classes that users build."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shapeshift.distill import OFD, SRRL
from shapeshift.distill.connector import Connector
from shapeshift.distill.ofd import margins, partial_l2
from shapeshift.distill.srrl import match_statistics
from tests.golden import Arrays, cases
from tests.tolerances import assert_close


def by_case(name: str, prefix: str) -> pytest.MarkDecorator:
    found = cases(name, prefix, f"num_{prefix}")
    return pytest.mark.parametrize("case", found, ids=[f"{prefix}{number}" for number in range(len(found))])


def as_tensor(case: Arrays, name: str) -> Tensor:
    return torch.from_numpy(case[name])


def as_leaf(case: Arrays, name: str) -> Tensor:
    return as_tensor(case, name).clone().requires_grad_()


def fill(norm: nn.BatchNorm2d, case: Arrays, prefix: str) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        if f"{prefix}{name}" in case:
            getattr(norm, name).data.copy_(as_tensor(case, f"{prefix}{name}"))


def set_up(connector: Connector, case: Arrays, stage: str = "") -> None:
    connector.conv.weight.data.copy_(as_tensor(case, f"{stage}conv_weight")[..., None, None])
    fill(connector.norm, case, f"{stage}bn_")


def assert_connector(connector: Connector, case: Arrays, stage: str = "") -> None:
    """Compare the gradients of a connector, and its running statistics where it was in training mode."""
    assert_close(connector.conv.weight.grad[..., 0, 0], as_tensor(case, f"{stage}dconv_weight"), "golden")
    for name in ("weight", "bias"):
        assert_close(getattr(connector.norm, name).grad, as_tensor(case, f"{stage}dbn_{name}"), "golden")
    for name in ("running_mean", "running_var"):
        if f"{stage}bn_{name}_after" in case:
            assert_close(getattr(connector.norm, name), as_tensor(case, f"{stage}bn_{name}_after"), "golden")


class Given(nn.Module):
    """Hands a given feature on, behind a norm that stands beside it."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = nn.Parameter(feature.clone())
        self.norm = nn.BatchNorm2d(feature.shape[1], dtype=feature.dtype)
        nn.init.ones_(self.norm.running_mean)  # so that what it returns is not the feature

    def forward(self, x: Tensor) -> Tensor:
        self.norm(self.feature)
        return self.feature


class GivenStages(nn.Module):
    """A model of stages whose features are given, whatever it gets."""

    def __init__(self, case: Arrays, whose: str) -> None:
        super().__init__()
        count = int(case["num_stages"])
        self.stages = nn.ModuleList(Given(as_tensor(case, f"s{stage}_{whose}")) for stage in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class GivenLast(nn.Module):
    """A model whose last feature is given, under a classifier that reads its mean."""

    def __init__(self, feature: Tensor, classes: int) -> None:
        super().__init__()
        self.last = Given(feature)
        self.head = nn.Linear(feature.shape[1], classes, dtype=feature.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(x).mean((2, 3)))


@by_case("ofd", "margin")
def test_golden_margins(case: Arrays) -> None:
    found = margins(as_tensor(case, "bn_weight"), as_tensor(case, "bn_bias"))
    assert_close(found, as_tensor(case, "margin"), "identical")


@by_case("ofd", "loss")
def test_golden_partial_l2(case: Arrays) -> None:
    source = as_leaf(case, "source")
    loss = partial_l2(source, as_tensor(case, "target"), as_tensor(case, "margin"))
    loss.backward()
    assert_close(loss.detach(), as_tensor(case, "loss"), "golden")
    assert_close(source.grad, as_tensor(case, "dsource"), "golden")


@by_case("ofd", "total")
def test_golden_ofd(case: Arrays) -> None:
    teacher, student = GivenStages(case, "teacher"), GivenStages(case, "student")
    for index, stage in enumerate(teacher.stages):
        fill(stage.norm, case, f"s{index}_teacher_bn_")
    names, x = [f"stages.{index}" for index in range(len(teacher.stages))], torch.zeros(int(case["batch"]), 1)
    distiller = OFD(teacher, student, names, example=x).double().train(bool(case["train"]))
    for index, connector in enumerate(distiller.connectors):
        set_up(connector, case, f"s{index}_")
        margin = distiller.get_buffer(f"margin{index}").flatten()
        assert_close(margin, as_tensor(case, f"s{index}_margin").to(margin.dtype), "identical")
    student(x)
    loss = distiller(x)
    loss.backward()
    assert_close(loss.detach(), as_tensor(case, "total_div1000"), "golden")
    for index, (stage, connector) in enumerate(zip(student.stages, distiller.connectors, strict=True)):
        assert_close(stage.feature.grad, as_tensor(case, f"s{index}_dstudent"), "golden")
        assert_connector(connector, case, f"s{index}_")

    distiller.scale = 1e-4
    for index, connector in enumerate(distiller.connectors):
        set_up(connector, case, f"s{index}_")
    student(x)
    assert_close(distiller(x).detach(), as_tensor(case, "total_div10000"), "golden")


@by_case("srrl", "connector")
def test_golden_connectors(case: Arrays) -> None:
    x, y = as_leaf(case, "x"), as_tensor(case, "y")
    connector = Connector(x.shape[1], y.shape[1], rectified=True).double().train(bool(case["train"]))
    set_up(connector, case)
    found = connector(x)
    (found * as_tensor(case, "G")).sum().backward()
    assert_close(found.detach(), y, "golden")
    assert_close(x.grad, as_tensor(case, "dx"), "golden")
    assert_connector(connector, case)


@by_case("srrl", "statm")
def test_golden_statistics(case: Arrays) -> None:
    x, y = as_leaf(case, "x"), as_leaf(case, "y")
    loss = match_statistics(x, y)
    loss.backward()
    assert_close(loss.detach(), as_tensor(case, "loss"), "golden")
    assert_close((x.grad, y.grad), (as_tensor(case, "dx"), as_tensor(case, "dy")), "golden")


@by_case("srrl", "full")
def test_golden_srrl(case: Arrays) -> None:
    classes, weight = len(case["fc_bias"]), float(case["kd_weight"])
    teacher = GivenLast(as_tensor(case, "teacher_feat"), classes)
    teacher.head.weight.data.copy_(as_tensor(case, "fc_weight"))
    teacher.head.bias.data.copy_(as_tensor(case, "fc_bias"))
    student = GivenLast(as_tensor(case, "student_feat"), classes)
    logits, x = as_leaf(case, "student_logits"), torch.zeros(len(case["labels"]), 1)
    assert_close(teacher(x).detach(), as_tensor(case, "teacher_logits"), "golden")

    distiller = SRRL(teacher, student, alpha=1.0, beta=weight, example=x).double()
    distiller.connector.rectified = True  # as in a teacher whose feature comes from a ReLU
    set_up(distiller.connector, case)
    student(x)
    distilled = distiller(x)
    loss = F.cross_entropy(logits, as_tensor(case, "labels")) + distilled
    loss.backward()
    assert_close(distilled.detach(), as_tensor(case, "loss_kd"), "golden")
    assert_close(loss.detach(), as_tensor(case, "loss_total"), "golden")
    assert_close(student.last.feature.grad, as_tensor(case, "dstudent_feat"), "golden")
    assert_close(logits.grad, as_tensor(case, "dstudent_logits"), "golden")
    assert_connector(distiller.connector, case)

    for alpha, beta, name in ((1.0, 0.0, "loss_stat"), (0.0, 1.0, "loss_mse")):
        distiller.alpha, distiller.beta = alpha, beta
        student(x)
        assert_close(distiller(x).detach(), as_tensor(case, name), "golden")
