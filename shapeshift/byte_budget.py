"""Budgets in bytes: plans whose checkpoint is as large as allowed, with all of its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from torch import nn

from shapeshift.budget import Budget, bytes_of_budget
from shapeshift.checkpoint.files import size
from shapeshift.checkpoint.snapshot import Snapshot
from shapeshift.config import Config
from shapeshift.errors import BudgetError, ModelError
from shapeshift.plan import Draft, Plan, make_plan

# A search stops at this share of the bytes, or where no plan lies between two.
_ENOUGH = 0.998
_MOST_STEPS = 40


def plan_for(model: nn.Module, budget: Budget, config: Config, reserved: Collection[str] = ()) -> Plan:
    """Plan a model within a budget of parameters or bytes.

    Args:
        model: The model; it is not changed.
        budget: The most trainable parameters, or the most bytes of a checkpoint, as :func:`shapeshift.compress` reads
            it.
        config: The config.
        reserved: Names that no group can have.

    Raises:
        BudgetError, ConfigError, ModelError: as :func:`shapeshift.plan.make_plan`.
    """
    allowed = bytes_of_budget(budget)
    if allowed is None:
        return with_size(make_plan(model, budget, config, reserved), model)
    return _search(model, allowed, Draft.of(model, config, reserved))


def checkpoint_size(plan: Plan, model: nn.Module) -> int:
    """Return the bytes that :func:`shapeshift.save` would write of a plain model once it is compressed by a plan.

    Raises:
        ModelError: if the model holds state that is not a tensor.
    """
    snapshot = Snapshot.planned(plan, model)
    return size(snapshot.description, snapshot.tensors, snapshot.formats)


def with_size(plan: Plan, model: nn.Module) -> Plan:
    """Return a plan for a model with the size of its checkpoint; as it is if there can be none."""
    try:
        return dataclasses.replace(plan, checkpoint_bytes=checkpoint_size(plan, model))
    except ModelError:  # a checkpoint cannot hold the model's state, and the budget may not need one
        return plan


def _search(model: nn.Module, allowed: int, draft: Draft) -> Plan:
    """Return the largest plan whose checkpoint takes at most the allowed bytes.

    The size grows almost linearly with the number of parameters, so that interpolating between two plans takes few
    steps; every third step halves the distance in case it does not.

    Raises:
        BudgetError: if no plan of the config takes so few bytes, or so many.
    """

    def sized(parameters: int) -> tuple[Plan, int]:
        plan = dataclasses.replace(draft.plan(parameters), budget_bytes=allowed)
        found = checkpoint_size(plan, model)
        return dataclasses.replace(plan, checkpoint_bytes=found), found

    low, high = draft.least, draft.most
    (best, best_size), (largest, largest_size) = sized(low), sized(high)
    if best_size > allowed:
        raise _unmet(allowed, "least", best_size, best)
    if largest_size < allowed:
        raise _unmet(allowed, "most", largest_size, largest)
    if largest_size == allowed:
        return largest
    for step in range(_MOST_STEPS):
        if high - low <= 1 or best_size >= _ENOUGH * allowed:
            break
        share = (allowed - best_size) / max(1, largest_size - best_size)
        middle = low + int(share * (high - low)) if step % 3 else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        plan, found = sized(middle)
        if found <= allowed:
            low, best, best_size = middle, plan, found
        else:
            high, largest_size = middle, found
    return best


def _unmet(allowed: int, side: str, bound: int, plan: Plan) -> BudgetError:
    change = "include, exclude, mapping, store or rest" if side == "least" else "max_templates or store"
    return BudgetError(
        f"a budget of {allowed:,} bytes cannot be met: the {side} for this model and config is {bound:,}, with "
        f"{plan.total:,} parameters and all files of a checkpoint counted. Choose a budget on the other side of that "
        f"bound, or change {change}"
    )
