"""Every method of distillation on every pair of a teacher and a student."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shapeshift import ModelError
from shapeshift.distill import DISTILLERS, TeacherStudent
from shapeshift.running.batches import call_model
from tests.distilling import every_method
from tests.models import loss_of
from tests.teachers import PAIRS, Pair, hooks
from tests.tolerances import assert_close

every_pair = pytest.mark.parametrize("pair", list(PAIRS.values()), ids=list(PAIRS))


def build(pair: Pair, method: str) -> tuple[TeacherStudent, nn.Module, nn.Module, Any]:
    teacher, student = pair.teacher(), pair.student()
    return DISTILLERS[method](teacher, student), teacher, student, pair.x()


class TestEveryMethodOnEveryPair:
    @every_method
    @every_pair
    def test_gradients_reach_student_and_connectors_alone(self, pair: Pair, method: str) -> None:
        distiller, teacher, student, x = build(pair, method)
        keys = list(student.state_dict())
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        own = loss_of(call_model(student.train(), x))
        loss = distiller.train()(x)

        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert 0 < loss.item() < float("inf")
        (own + loss).backward()
        for name, parameter in [*student.named_parameters(), *distiller.named_parameters()]:
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in distiller.parameters())
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
        assert all(module.training for module in [*student.modules(), *distiller.modules()])
        assert_close(dict(teacher.state_dict()), before, "identical")
        assert list(student.state_dict()) == keys
        ours = {id(tensor) for model in (teacher, student) for tensor in [*model.parameters(), *model.buffers()]}
        assert not ours & {id(tensor) for tensor in [*distiller.parameters(), *distiller.buffers()]}
        assert all(name.startswith("connector") for name in distiller.state_dict())

    @every_method
    @every_pair
    def test_a_step_lowers_the_loss(self, pair: Pair, method: str) -> None:
        distiller, _, student, x = build(pair, method)
        student.eval()  # without dropout, a step in the gradient's direction is one downhill
        parameters = [*student.parameters(), *distiller.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-4)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            call_model(student, x)
            loss = distiller(x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] < losses[0]

    @every_method
    @pytest.mark.parametrize("name", ["timm resnet", "timm vit", "convnext", "efficientnet"])
    def test_gradient_checkpointing_gives_the_same_gradients(self, method: str, name: str) -> None:
        distiller, _, student, x = build(PAIRS[name], method)
        found = []
        for is_checkpointed in (False, True):
            student.set_grad_checkpointing(is_checkpointed)
            student.eval().zero_grad()
            (loss_of(call_model(student, x)) + distiller.eval()(x)).backward()
            found.append([parameter.grad.clone() for parameter in student.parameters()])
        assert_close(found[1], found[0], "reordered gradient")

    @every_method
    @every_pair
    def test_close_removes_every_hook(self, pair: Pair, method: str) -> None:
        with build(pair, method)[0] as distiller:
            teacher, student = distiller.teacher, distiller.student
            assert hooks(teacher)
            assert hooks(student)
        assert not hooks(teacher, student)
        call_model(student, pair.x())
        with pytest.raises(ModelError, match="the distiller was closed"):
            distiller(pair.x())
