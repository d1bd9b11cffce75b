"""The passes of teacher and student that a distiller reads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from shapeshift import ModelError
from tests.distilling import CLASSES, batch, build, every_method, expected_step, gradients, losses, models, passes, step
from tests.tolerances import assert_close


class TestPasses:
    @every_method
    def test_one_of_the_teacher_and_the_callers_own_of_the_student(self, method: str) -> None:
        teacher, student = models()
        distiller = build(method, teacher, student)
        counts = passes(teacher), passes(student)
        step(student, distiller, *batch())
        assert [len(count) for count in counts] == [1, 1]

    @every_method
    def test_a_student_that_was_not_run(self, method: str) -> None:
        teacher, student = models()
        distiller, (x, y) = build(method, teacher, student), batch()
        message = "WideResNet: .* was not recorded since the last call of the distiller"
        with pytest.raises(ModelError, match=message):
            distiller(x, y)
        with torch.no_grad():
            student(x)
        with pytest.raises(ModelError, match=message):
            distiller(x, y)
        losses(student, distiller, x, y)
        with pytest.raises(ModelError, match=message):
            distiller(x, y)

    @every_method
    def test_a_batch_of_another_size(self, method: str) -> None:
        teacher, student = models()
        distiller, (x, _) = build(method, teacher, student), batch()
        student(x[:3])
        with pytest.raises(ModelError, match="batch that the student has just seen"):
            distiller(x)

    @every_method
    def test_an_evaluation_in_between_does_not_disturb(self, method: str) -> None:
        x, y = batch()
        expected = expected_step(method, x, y)
        teacher, student = models()
        distiller = build(method, teacher, student)
        own = F.cross_entropy(student(x), y)
        with torch.no_grad():
            student.eval()(batch(7)[0])
        with torch.inference_mode():
            student(batch(3)[0])
        student.train()
        loss = own + distiller(x, y)
        loss.backward()
        assert_close((loss.detach(), gradients(student, distiller)), expected, "identical")

    @every_method
    def test_the_last_of_several_passes_counts(self, method: str) -> None:
        teacher, student = models()
        distiller, (x, y) = build(method, teacher, student.eval()).eval(), batch()
        student(batch(6)[0].neg())
        student(x)
        last = distiller(x, y)
        student(x)
        assert_close(last, distiller(x, y), "identical")

    @every_method
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_a_copy_of_the_student_records_nothing(self, method: str, duplicate: Callable[[Any], Any]) -> None:
        x, y = batch()
        expected = expected_step(method, x, y)
        teacher, student = models()
        distiller = build(method, teacher, student)
        own = F.cross_entropy(student(x), y)
        average = duplicate(student)
        assert average(batch(6)[0]).shape == (6, CLASSES)
        loss = own + distiller(x, y)
        loss.backward()
        assert_close((loss.detach(), gradients(student, distiller)), expected, "identical")
        average(x)
        with pytest.raises(ModelError, match="was not recorded since the last call"):
            distiller(x, y)

    @every_method
    def test_the_teacher_stays_in_evaluation_and_out_of_train(self, method: str) -> None:
        teacher, student = models()
        distiller = build(method, teacher, student)
        distiller.train()
        student.train()
        teacher.train()  # by mistake
        state = copy.deepcopy(teacher.state_dict())
        step(student, distiller, *batch())
        assert not any(module.training for module in teacher.modules())
        distiller.train()
        student.train()
        assert not any(module.training for module in teacher.modules())
        assert_close(dict(teacher.state_dict()), dict(state), "identical")
        assert all(parameter.grad is None for parameter in teacher.parameters())
