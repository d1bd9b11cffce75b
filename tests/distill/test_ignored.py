"""Ignored labels: samples and positions that are labelled -100 are left out of every loss."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.distill import DISTILLERS, KD, OFD, SRRL, TeacherStudent
from shapeshift.distill.ignored import counted
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.running.labels import IGNORED
from tests.distilling import every_method
from tests.teachers import CLASSES, bert, gpt2, images, tokens
from tests.tolerances import assert_close


def outcome(distiller: TeacherStudent, student: nn.Module, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
    """Return the loss of one step, the gradients of student and connectors, and the statistics of the connectors."""
    connectors = distiller.state_dict()
    distiller.load_state_dict(copy.deepcopy(connectors))
    student.zero_grad()
    distiller.zero_grad()
    student(x)
    loss = distiller(x, y)
    loss.backward()
    named = [*student.named_parameters(prefix="student"), *distiller.named_parameters()]
    found = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    return {"loss": loss.detach(), **found, **{name: value.clone() for name, value in distiller.named_buffers()}}


def token_models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return gpt2(2, 24).eval(), gpt2(2, 16).eval()


def image_models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return WideResNet(10, 0.5, CLASSES).eval(), WideResNet(10, 0.25, CLASSES).eval()


def compared(
    method: str, models: Callable[[], tuple[nn.Module, nn.Module]], ignoring: tuple[Tensor, Tensor], rest: Tensor
) -> None:
    """Compare a step on data with ignored labels with a step on the rest of the data."""
    found = []
    for x, y in (ignoring, (rest, None)):
        teacher, student = models()
        torch.manual_seed(1)
        with DISTILLERS[method](teacher, student) as distiller:
            found.append(outcome(distiller, student, x, y))
    assert found[0].keys() - found[1].keys() <= {"student.transformer.wpe.weight"}
    assert_close(found[0], found[1], "reordered")


@every_method
def test_ignored_positions_are_left_out(method: str) -> None:
    ids = tokens()["input_ids"]
    labels = torch.where(torch.arange(10) < 7, ids, IGNORED)  # causal: what is left out does not change what is before
    compared(method, token_models, (ids, labels), ids[:, :7])


@every_method
def test_ignored_samples_are_left_out(method: str) -> None:
    x, labels = images(), torch.tensor([1, IGNORED, 0, IGNORED])
    compared(method, image_models, (x, labels), x[::2])
    ids = tokens()["input_ids"]
    compared(method, token_models, (ids, labels), ids[::2])
    compared(method, token_models, (ids, labels[:, None].expand(4, 10)), ids[::2])


@every_method
def test_labels_may_be_flat(method: str) -> None:
    ids = tokens()["input_ids"]
    labels = torch.where(torch.arange(10) < 7, ids, IGNORED)
    compared(method, token_models, (ids, labels.flatten()), ids[:, :7])


@pytest.mark.parametrize("models", [token_models, image_models])
@every_method
def test_a_loss_of_which_nothing_counts_is_zero(method: str, models: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    teacher, student = models()
    x = tokens()["input_ids"] if models is token_models else images()
    distiller = DISTILLERS[method](teacher, student)
    before = copy.deepcopy(dict(distiller.named_buffers()))
    found = outcome(distiller, student, x, torch.full((4,), IGNORED))
    assert found.pop("loss") == 0
    assert_close(dict(distiller.named_buffers()), before, "identical")
    gradients = {name: value for name, value in found.items() if name not in before}
    assert gradients.keys() >= dict(distiller.named_parameters()).keys()  # processes wait for each other's
    assert all((gradient == 0).all() for gradient in gradients.values())


@every_method
def test_labels_that_ignore_nothing_change_nothing(method: str) -> None:
    teacher, student = image_models()
    with DISTILLERS[method](teacher, student) as distiller:
        state = copy.deepcopy(distiller.state_dict())
        found = []
        for y in (None, torch.arange(4), torch.full((4,), float(IGNORED))):
            distiller.load_state_dict(state)
            found.append(outcome(distiller, student, images() * 0 + 1, y))
    assert_close(found[1:], [found[0]] * 2, "identical")


def test_labels_of_pixels_fit_maps() -> None:
    labels = torch.full((2, 3, 4), 7)
    labels[0, 1, 2] = IGNORED
    counts, fits = counted(labels, (2, 3, 4))
    assert torch.equal(counts, labels != IGNORED)
    assert fits


@pytest.mark.parametrize("method", [SRRL, OFD])
def test_positions_that_a_feature_does_not_have_warn_once(method: type[TeacherStudent]) -> None:
    teacher, student = (bert("SequenceClassification", 2, 16, num_labels=CLASSES).eval() for _ in range(2))
    layers = [("bert.pooler", "bert.pooler")] if method is SRRL else ["bert.encoder.layer.0"]
    distiller = method(teacher, student, layers=layers)
    ids = tokens()["input_ids"]
    labels = torch.zeros(4, 3, dtype=torch.long)  # of three words each, say
    labels[:2, 1:], labels[2] = IGNORED, IGNORED
    counting = torch.tensor([0, 0, IGNORED, 0])
    state = copy.deepcopy(distiller.state_dict())
    with pytest.warns(shapeshift.ShapeshiftWarning, match=r"labels of shape \(4, 3\) ignore positions"):
        found = outcome(distiller, student, ids, labels)
    with warnings.catch_warnings(action="error"):
        for y in (labels, counting):  # a sample without any label is left out all the same
            distiller.load_state_dict(state)
            assert_close(outcome(distiller, student, ids, y), found, "identical")


def test_labels_of_another_batch_are_no_reason_to_leave_out() -> None:
    teacher, student = image_models()
    distiller = KD(teacher, student)
    x = images()
    student(x)
    expected = distiller(x)
    student(x)
    with pytest.warns(shapeshift.ShapeshiftWarning, match="labels of shape"):
        assert_close(distiller(x, torch.full((3,), IGNORED)), expected, "identical")
