"""Every method that is registered, each choice beside the defaults of the others."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import shapeshift
from shapeshift.budget import Budget, parse_budget
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS
from shapeshift.plan import Plan, budget_range
from shapeshift.upsamplers import UPSAMPLERS

CHOICES = {"mapping": MAPPINGS, "combine": GENERATORS, "upsample": UPSAMPLERS}

every_method = pytest.mark.parametrize(
    "options",
    [pytest.param({choice: name}, id=f"{choice}={name}") for choice, registry in CHOICES.items() for name in registry],
)


def compressed(model: nn.Module, budget: Budget = 0.6, **options: Any) -> nn.Module:
    """Compress a model within a budget, or within the nearest one that the method allows."""
    least, most = budget_range(model, shapeshift.Config(**options))
    allowed = parse_budget(budget, shapeshift.count_parameters(model))
    return shapeshift.compress(model, min(max(allowed, least), most), **options)


def least_used(plan: Plan) -> float:
    """Return the share of a budget that a plan has to use."""
    planner = plan.generator.planner(plan.groups[0].weights, plan.config)
    return min(planner.least_used, UPSAMPLERS[plan.config.upsample].least_used)
