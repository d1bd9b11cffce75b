"""Whether two plans generate the same weights from the same shared parameters."""

from __future__ import annotations

from shapeshift.plan import Plan


def sharing_difference(plan: Plan, model_plan: Plan) -> str | None:
    """Return the first difference in how two plans generate weights, as a sentence; None without one.

    Args:
        plan: The plan of a state.
        model_plan: The plan of the model to load it into.
    """
    for option in ("combine", "upsample"):
        theirs, ours = getattr(plan.config, option), getattr(model_plan.config, option)
        if theirs != ours:
            return f"{option} is {theirs!r} in the state and {ours!r} in the model"
    names, model_names = [group.name for group in plan.groups], [group.name for group in model_plan.groups]
    if names != model_names:
        return f"the groups are {', '.join(names)} in the state and {', '.join(model_names)} in the model"
    for group, model_group in zip(plan.groups, model_plan.groups, strict=True):
        counts = len(group.weights), len(model_group.weights)
        if counts[0] != counts[1]:
            return f"group {group.name} has {counts[0]} weights in the state and {counts[1]} in the model"
        for number, (weight, own) in enumerate(zip(group.weights, model_group.weights, strict=True), start=1):
            if (weight.names, weight.shape) != (own.names, own.shape):
                return (
                    f"weight {number} of group {group.name} is {weight.name} {weight.shape} in the state and "
                    f"{own.name} {own.shape} in the model"
                )
        if group.layout != model_group.layout:
            return f"group {group.name} is laid out in another way"
    return None
