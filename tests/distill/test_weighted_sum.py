"""A weighted sum of distillers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shapeshift import ConfigError
from shapeshift.distill import DISTILLERS, KD, TeacherStudent, WeightedSum
from tests.distilling import batch, build, models, passes
from tests.tolerances import assert_close


class TestWeightedSum:
    def distillers(self) -> tuple[nn.Module, nn.Module, list[TeacherStudent]]:
        teacher, student = models()
        return teacher, student, [build(method, teacher, student) for method in DISTILLERS]

    def test_runs_a_shared_teacher_once_and_adds_the_terms(self) -> None:
        x, y = batch()
        expected = torch.tensor(0.0)
        for weight, method in enumerate(DISTILLERS, 1):
            teacher, student = models()
            distiller = build(method, teacher, student)
            student(x)
            expected = expected + weight * distiller(x, y).detach()
        teacher, student, distillers = self.distillers()
        total = WeightedSum([(weight, distiller) for weight, distiller in enumerate(distillers, 1)])
        counts = passes(teacher), passes(student)
        student(x)
        loss = total(x, y)
        loss.backward()
        assert [len(count) for count in counts] == [1, 1]
        assert_close(loss.detach(), expected, "reordered")
        assert all(parameter.grad.any() for parameter in total.parameters())

    def test_runs_each_of_several_teachers(self) -> None:
        (first, student), (second, _) = models(), models()
        nn.init.zeros_(second.head.weight)
        distillers = [KD(teacher, student) for teacher in (first, second)]
        x, _ = batch()
        student(x)
        found = WeightedSum([(0.5, distiller) for distiller in distillers])(x)
        student(x)
        separate = [distiller(x) for distiller in distillers]
        assert separate[0] != separate[1]
        assert_close(found, 0.5 * separate[0] + 0.5 * separate[1], "reordered")

    def test_state_and_hooks_are_those_of_its_terms(self) -> None:
        teacher, student, distillers = self.distillers()
        with WeightedSum([(1.0, distiller) for distiller in distillers]) as total:
            state = total.state_dict()
            assert len(state) == sum(len(distiller.state_dict()) for distiller in distillers) > 0
            assert any(module._forward_hooks for module in teacher.modules())
        for model in (teacher, student):
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_refuses_what_cannot_be_summed(self) -> None:
        with pytest.raises(ConfigError, match="no distillers"):
            WeightedSum([])
        teacher, student = models()
        with pytest.raises(
            ConfigError, match=r"autocast=None and autocast=torch\.bfloat16|autocast=torch\.bfloat16 and"
        ):
            WeightedSum([(1.0, KD(teacher, student)), (1.0, KD(teacher, student, autocast=torch.bfloat16))])
