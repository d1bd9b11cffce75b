"""Blocks that run again, with the tensors and settings of each run."""

from __future__ import annotations

import copy

import pytest
import torch

import shapeshift
from shapeshift.recurrence import (
    fold,
    soft_share,
)
from shapeshift.recurrence.repeat import Repeat
from tests.foldable import FOLDED, alternate, folded, images, wrn
from tests.models import gradients, tensors
from tests.tolerances import assert_close


@pytest.mark.parametrize("name", FOLDED)
def test_the_recurrent_form_runs_each_block_again(name: str) -> None:
    model, x, folding = folded(name)
    assert any(schedule.loops for schedule in folding.schedules)
    assert not any(schedule.notes for schedule in folding.schedules)
    for schedule in folding.schedules:
        assert set(schedule.blocks) == {0}
        assert schedule.loops == ({(0, 0): len(schedule.steps) - 1})
        block, *others = (folding.module.get_submodule(step) for step in schedule.steps)
        assert not isinstance(block, Repeat)
        assert all(isinstance(other, Repeat) for other in others)
    for mode in (False, True):
        model.train(mode)
        folding.module.train(mode)
        assert_close(tensors(folding.module(*x)), tensors(model(*x)), "identical")
    assert folding.after == shapeshift.count_parameters(model) == shapeshift.count_parameters(folding.module)
    assert folding.after < folding.before
    # Both use the same tensors, so they stay equal in training.
    gradients(model, x)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.01 * parameter.grad
    assert_close(tensors(folding.module(*x)), tensors(model(*x)), "identical")
    assert set(folding.module.state_dict()) <= set(model.state_dict())


def test_settings_that_only_some_runs_have() -> None:
    torch.manual_seed(0)
    model = soft_share(wrn(), 2)
    model.get_submodule("blocks.1").hint = 3
    model.get_submodule("blocks.4").conv1.hint = [torch.zeros(2), "x"]
    model.get_submodule("blocks.5").conv1.hint = [torch.ones(2), "x"]
    alternate(model)
    folding = fold(model, 0.999)
    assert [schedule.settings for schedule in folding.schedules] == [("hint",), ("conv1.hint",), ()]
    x = images()
    module = copy.deepcopy(folding.module).eval()
    assert module(*x).equal(model.eval()(*x))
    assert module.get_submodule("blocks.1").hint == 3
