"""Comparing a plan and tensors with a model; all differences are returned as sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.errors import CheckpointError
from shapeshift.plan import GroupPlan, Plan, with_weights
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters


def plan_differences(plan: Plan, model: nn.Module) -> list[str]:
    """Compare the weights of a plan with the parameters of a plain model: names, shapes and ties."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names_of: dict[nn.Parameter, set[str]] = {}
    for name, parameter in parameters.items():
        names_of.setdefault(parameter, set()).add(name)
    found = []
    for weight in plan.weights:
        if not weight.names:
            continue
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
    return found


def adapted_plan(plan: Plan, model: nn.Module) -> Plan:
    """Return a plan with the dtypes and devices of a plain model, which has all its weights.

    Raises:
        CheckpointError: if the weights of a group differ in dtype or device.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))

    def adapted(group: GroupPlan) -> GroupPlan:
        homes = {(parameters[w.name].dtype, _home(parameters[w.name])) for w in group.weights if w.names}
        if len(homes) > 1:
            names = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in homes))
            raise CheckpointError(
                f"the weights of group {group.name} share a store, but are {names} in the model; "
                "give them one dtype and one device before loading"
            )
        ((dtype, device),) = homes
        return with_weights(group, dtype=dtype, device=device)

    return dataclasses.replace(plan, groups=tuple(map(adapted, plan.groups)))


def _home(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.is_meta else tensor.device


def state_after(plan: Plan, model: nn.Module) -> dict[str, Any]:
    """Return the state that a plain model will have once it is compressed by a plan; only its shapes matter.

    The shared parameters are on the meta device, where a damaged plan costs no memory.
    """
    generated = {name for weight in plan.weights for name in weight.names}
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in generated}
    on_meta = tuple(with_weights(group, device=torch.device("meta")) for group in plan.groups)
    shared = SharedParameters(dataclasses.replace(plan, groups=on_meta))
    return state | {f"{ATTRIBUTE}.{name}": tensor for name, tensor in shared.state_dict(keep_vars=True).items()}


def state_differences(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """Compare the tensors of a checkpoint with the state of a model: names, shapes and kinds of dtypes."""
    differences = [f"{name} is in the model and not in the checkpoint" for name in sorted(set(state) - set(tensors))]
    for name in sorted(set(tensors) - set(state)):
        differences.append(f"{name} {tuple(tensors[name].shape)} is in the checkpoint and not in the model")
    for name in sorted(set(tensors) & set(state)):
        here, there = state[name], tensors[name]
        if not isinstance(here, Tensor):
            differences.append(f"{name} is a tensor in the checkpoint and {type(here).__name__} in the model")
        elif here.shape != there.shape:
            differences.append(f"{name} is {tuple(there.shape)} in the checkpoint and {tuple(here.shape)} in the model")
        elif here.dtype != there.dtype and not (here.is_floating_point() and there.is_floating_point()):
            differences.append(f"{name} is {there.dtype} in the checkpoint and {here.dtype} in the model")
    return differences


def base_differences(base: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> list[str]:
    """Compare the tensors that a checkpoint left out with the state of a model that has to have them.

    Args:
        base: What the checkpoint says of each of them: its shape, and a few of its entries.
        state: The state of the model.
    """
    differences = []
    for name, entry in base.items():
        if entry["shape"] is None:  # another name of a tensor
            continue
        tensor = state.get(name)
        if not isinstance(tensor, Tensor):
            differences.append(f"{name} {tuple(entry['shape'])} was left out of the checkpoint and is not in the model")
        elif tuple(tensor.shape) != tuple(entry["shape"]):
            shapes = f"{tuple(entry['shape'])} beside the checkpoint and {tuple(tensor.shape)} in the model"
            differences.append(f"{name} is {shapes}")
        elif tensor.is_meta:
            differences.append(
                f"{name} is on the meta device and was left out of the checkpoint: give the model its values first"
            )
        elif entry["entries"] and not _same_entries(tensor, entry["entries"]):
            differences.append(
                f"{name} has other values than beside the checkpoint, which leaves it out: load the base model first"
            )
    return differences


def _same_entries(tensor: Tensor, entries: list[float]) -> bool:
    """Tell whether a tensor has the entries that were noted of one of its shape, in any precision."""
    places = sorted({place * (tensor.numel() - 1) // 3 for place in range(4)})
    found = tensor.detach().reshape(-1)[places].float().cpu()
    noted = torch.tensor(entries)
    # The largest entry bounds the error of rounding to the narrower of two precisions.
    return len(found) == len(noted) and bool(((found - noted).abs() <= 0.01 * noted.abs() + 1e-6).all())


def check_generates(shared: SharedParameters) -> None:
    """Check that each weight of a plan comes out of its shared parameters in its shape.

    Raises:
        ValueError: if one does not.
    """
    for generator in shared.generators():
        for index, weight in enumerate(generator.weights):
            with torch.no_grad():
                (generated,) = generator.generate([index])
            if tuple(generated.shape) != weight.shape:
                raise ValueError(f"it makes {weight.name} {tuple(generated.shape)} instead of {weight.shape}")
