"""The plans of adapters: their weights under other names, and those of several adapters in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from shapeshift.errors import CheckpointError
from shapeshift.mappings import Assignment
from shapeshift.plan import GroupPlan, Plan
from shapeshift.surgery.shared_parameters import SharedParameters

# The options that say how a generator works. Adapters of one model have to agree in them.
_OPTIONS = ("combine", "upsample", "embedding_size", "ring_block", "store", "store_noise")


def renamed(group: GroupPlan, names_of: Callable[[str], tuple[str, ...]]) -> GroupPlan:
    """Return a group whose weights have other names; a weight of no name is read by no layer."""
    weights = (
        dataclasses.replace(weight, names=tuple(dict.fromkeys(new for name in weight.names for new in names_of(name))))
        for weight in group.weights
    )
    return dataclasses.replace(group, weights=tuple(weights))


def with_groups(plan: Plan, groups: tuple[GroupPlan, ...]) -> Plan:
    """Return a plan with other groups, and the mapping that leads to them."""
    config = plan.config
    if isinstance(config.mapping, Assignment):
        named = {name: group.name for group in groups for weight in group.weights for name in weight.names}
        config = dataclasses.replace(config, mapping=Assignment(named))
    return dataclasses.replace(plan, config=dataclasses.replace(config, include=(), exclude=()), groups=groups)


def groups_of(plan: Plan, part: Plan) -> list[GroupPlan]:
    """Return the groups of a plan that generate the weights of another one, in the other's order.

    Raises:
        CheckpointError: if they are grouped in another way.
    """
    own = {name: group for group in plan.groups for weight in group.weights for name in weight.names}
    found = []
    for group in part.groups:
        name = next(name for weight in group.weights for name in weight.names)
        there = own.get(name)
        if there is None or dataclasses.replace(group, name=there.name, weights=()) != dataclasses.replace(
            there, weights=()
        ):
            there = None
        if there is None or [w.names for w in there.weights] != [w.names for w in group.weights]:
            raise CheckpointError(
                f"{name} is generated in the model in another way than in the checkpoint. Load it under another "
                "adapter_name, or delete the adapter of the model first: model.delete_adapter(name)"
            )
        found.append(there)
    return found


def merge(plan: Plan, added: Plan) -> Plan | None:
    """Return the plan of a model that gets another compressed adapter; None if it has that adapter already.

    Raises:
        CheckpointError: if the two do not fit together.
    """
    own = {name for weight in plan.weights for name in weight.names}
    if any(name in own for weight in added.weights for name in weight.names):
        groups_of(plan, added)
        return None
    for option in _OPTIONS:
        ours, theirs = getattr(plan.config, option), getattr(added.config, option)
        if ours != theirs:
            raise CheckpointError(
                f"{option} is {ours!r} in the adapters of the model and {theirs!r} in the one to load beside them: "
                "call shapeshift.materialize(model) first, or load it into a model of its own"
            )
    taken = {group.name for group in plan.groups} | SharedParameters.reserved_names()
    groups = []
    for group in added.groups:
        number = 2
        name = group.name
        while name in taken:
            name, number = f"{group.name}_{number}", number + 1
        taken.add(name)
        groups.append(dataclasses.replace(group, name=name))
    counts = {field: getattr(plan, field) + getattr(added, field) for field in ("dense", "untouched", "budget")}
    return with_groups(dataclasses.replace(plan, **counts, budget_bytes=None), (*plan.groups, *groups))
