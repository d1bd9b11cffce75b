"""Whether the model to load into is the one that a checkpoint was made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shapeshift.checkpoint.files import Checkpoint
from shapeshift.errors import CheckpointError
from shapeshift.plan import GroupPlan, Plan
from shapeshift.surgery.attached import original_class
from shapeshift.surgery.layers import check_attachable
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

_SHOWN_DIFFERENCES = 5
ResultT = TypeVar("ResultT")


def match_plan(checkpoint: Checkpoint, plan: Plan, model: nn.Module) -> Plan:
    """Return a checkpoint's plan with the dtypes and devices of a plain model, which must have all its weights.

    Raises:
        CheckpointError: if the model has another architecture.
        ModelError: if it cannot be compressed.
    """
    for path, module in model.named_modules():
        check_attachable(module, path)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names_of: dict[nn.Parameter, set[str]] = {}
    for name, parameter in parameters.items():
        names_of.setdefault(parameter, set()).add(name)
    found = []
    for weight in (weight for group in plan.groups for weight in group.weights):
        missing = [name for name in weight.names if name not in parameters]
        if missing:
            found.append(f"{missing[0]} {weight.shape} is not a parameter of the model")
            continue
        parameter = parameters[weight.name]
        if tuple(parameter.shape) != weight.shape:
            shape = tuple(parameter.shape)
            found.append(f"{weight.name} is {weight.shape} in the checkpoint and {shape} in the model")
        elif names_of[parameter] != set(weight.names):
            here, there = sorted(names_of[parameter]), sorted(weight.names)
            found.append(f"{weight.name} is tied as {there} in the checkpoint and as {here} in the model")
    raise_if_different(checkpoint, found, model)

    def match_group(group: GroupPlan) -> GroupPlan:
        homes = {(parameters[w.name].dtype, _home(parameters[w.name])) for w in group.weights}
        if len(homes) > 1:
            names = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in homes))
            raise CheckpointError(
                f"the weights of group {group.name} share a store, but are {names} in the model; "
                "give them one dtype and one device before loading"
            )
        ((dtype, device),) = homes
        weights = tuple(dataclasses.replace(weight, dtype=dtype, device=device) for weight in group.weights)
        return dataclasses.replace(group, weights=weights)

    return dataclasses.replace(plan, groups=tuple(map(match_group, plan.groups)))


def _home(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.is_meta else tensor.device


def state_after(checkpoint: Checkpoint, model: nn.Module, plan: Plan) -> dict[str, Any]:
    """Return the state that a plain model will have once it is compressed by a plan; its values do not matter."""
    generated = {name for group in plan.groups for weight in group.weights for name in weight.names}
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in generated}
    return state | _shared_state(checkpoint, plan)


def _shared_state(checkpoint: Checkpoint, plan: Plan) -> dict[str, Tensor]:
    """Return the state of a plan's shared parameters on the meta device, where a damaged plan costs no memory."""
    on_meta = [
        dataclasses.replace(
            group, weights=tuple(dataclasses.replace(weight, device=torch.device("meta")) for weight in group.weights)
        )
        for group in plan.groups
    ]
    shared = _guarded(checkpoint, lambda: SharedParameters(dataclasses.replace(plan, groups=tuple(on_meta))))
    return {f"{ATTRIBUTE}.{name}": tensor for name, tensor in shared.state_dict(keep_vars=True).items()}


def check_state(checkpoint: Checkpoint, state: Mapping[str, Any], model: nn.Module) -> None:
    """Check that a checkpoint holds every tensor of a state, in its shape, and no other."""
    differences = []
    found = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in checkpoint.non_persistent}
    for name in sorted(set(state) - set(found)):
        differences.append(f"{name} is in the model and not in the checkpoint")
    for name in sorted(set(found) - set(state)):
        differences.append(f"{name} {tuple(found[name].shape)} is in the checkpoint and not in the model")
    for name in sorted(set(found) & set(state)):
        here, there = state[name], found[name]
        if not isinstance(here, Tensor):
            differences.append(f"{name} is a tensor in the checkpoint and {type(here).__name__} in the model")
        elif here.shape != there.shape:
            differences.append(f"{name} is {tuple(there.shape)} in the checkpoint and {tuple(here.shape)} in the model")
        elif here.dtype != there.dtype and not (here.is_floating_point() and there.is_floating_point()):
            differences.append(f"{name} is {there.dtype} in the checkpoint and {here.dtype} in the model")
    raise_if_different(checkpoint, differences, model)


def check_same_plan(checkpoint: Checkpoint, saved: Plan, plan: Plan) -> None:
    """Check that a model is compressed as a checkpoint's model was: what is generated, and from what."""

    def essence(plan: Plan) -> Any:
        groups = [
            (group.name, [(weight.names, weight.shape) for weight in group.weights], group.layout)
            for group in plan.groups
        ]
        return plan.config.combine, plan.config.upsample, groups

    if essence(saved) != essence(plan):
        raise CheckpointError(
            f"the model is compressed by another plan than the one in {checkpoint.folder}; "
            "load into a freshly built model, or call shapeshift.materialize(model) first"
        )


def raise_if_different(checkpoint: Checkpoint, differences: list[str], model: nn.Module) -> None:
    """Raise an error that names the first differences between a model and a checkpoint's, if there are any."""
    if not differences:
        return
    shown = "".join(f"\n  {difference}" for difference in differences[:_SHOWN_DIFFERENCES])
    more = len(differences) - _SHOWN_DIFFERENCES
    raise CheckpointError(
        f"the {checkpoint.architecture} in {checkpoint.folder} has another architecture than the "
        f"{original_class(model).__name__} to load it into. Build the model as it was built when it was saved. They "
        "differ in:" + shown + (f"\n  and {more} more" if more > 0 else "")
    )


def build_shared(checkpoint: Checkpoint, plan: Plan) -> SharedParameters:
    """Make the shared parameters of a plan, uninitialised, and see that each weight comes out of them.

    Raises:
        CheckpointError: if the plan of the checkpoint does not work.
    """
    with torch.inference_mode(mode=False):  # whose tensors could never be trained
        shared = _guarded(checkpoint, lambda: SharedParameters(plan))
    for group in shared.groups():
        for index, weight in enumerate(group.weights):
            with torch.no_grad():
                generated = _guarded(checkpoint, partial(group.generate, [index]))[0]
            if tuple(generated.shape) != weight.shape:
                raise CheckpointError(
                    f"{checkpoint.file.name} is damaged: its plan makes {weight.name} {tuple(generated.shape)} "
                    f"instead of {weight.shape}. Save the model again"
                )
    return shared


def _guarded(checkpoint: Checkpoint, build: Callable[[], ResultT]) -> ResultT:
    """Run what relies on a plan from a file, and blame the file if it fails."""
    try:
        return build()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{checkpoint.file.name} is damaged: its plan does not work ({what}). Save the model again"
        ) from None
