"""Checkpoints of compressed and pruned models: all of their state, and what gives it meaning, a plan or a record."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shapeshift.checkpoint_files import Checkpoint, read, write
from shapeshift.compression import find_root, install, require_root
from shapeshift.errors import CheckpointError, ModelError
from shapeshift.layers import check_attachable, is_attached, is_generated, original_class
from shapeshift.masking import is_masked
from shapeshift.plan import GroupPlan, Plan
from shapeshift.prune.record import cut_differences, find_pruned, pruned_as, record_of
from shapeshift.sharding import is_sharded
from shapeshift.shared_parameters import ATTRIBUTE, SharedParameters

ModelT = TypeVar("ModelT", bound=nn.Module)

_SHOWN_DIFFERENCES = 5


def save(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write a compressed or pruned model to a directory, in a size proportional to what is left of it.

    ``model.safetensors`` holds the shared parameters and everything that is not generated: biases, norms, buffers and
    frozen parameters, tensors that share memory once. ``shapeshift.json`` holds the plan, and the channels that each
    layer kept, so that :func:`load` derives nothing again. Each file is written beside its place and moved
    there when it is complete.

    Args:
        model: a compressed or pruned model, or a wrapper around one (by DDP, say), which is left out. What FSDP2 has
            sharded is gathered: all processes have to call this then, and the first one writes.
        directory: where to write; it is made if it does not exist.

    Raises:
        ModelError: if the model is neither compressed nor pruned, is on the meta device, or holds state that is not a
            tensor.
    """
    if is_masked(model):
        raise ModelError(
            f"{type(model).__name__} has masked filters, which a checkpoint does not tell from others: prune without "
            "mask=True, or keep its state_dict()"
        )
    root = find_described(model)
    root = require_root(model) if root is None else root
    _check_wrapper(model, root)
    tensors, _ = stored_tensors(root)
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device and has no values to save; give the model values first")
    description = describe(root)
    sharded = any(map(is_sharded, tensors.values()))
    whole = {name: cast(Any, found).full_tensor() if is_sharded(found) else found for name, found in tensors.items()}
    if not sharded or dist.get_rank() == 0:
        write(Path(directory), description, whole)
    if sharded:
        dist.barrier()  # nobody reads what is not complete


def find_described(model: nn.Module) -> nn.Module | None:
    """Return what a checkpoint of a model describes: the compressed or pruned module in it; None without one.

    Raises:
        ModelError: if several compressed models are in it.
    """
    root = find_root(model)
    return find_pruned(model) if root is None else root  # a module may count as false: it can have a length


def describe(root: nn.Module) -> dict[str, Any]:
    """Describe a compressed or pruned model, without its tensors, as a dict that JSON can hold.

    Args:
        root: the root of a compressed model, or a pruned one.

    Raises:
        ModelError: if a module keeps extra state that is not a tensor, or a layer was replaced since the model was
            compressed.
    """
    if is_attached(root):
        _check_plan(root)
    tensors, aliases = stored_tensors(root)
    parameters = root.named_parameters(remove_duplicate=False)
    persistent = root.state_dict(keep_vars=True)
    record = record_of(root)
    description = {
        "architecture": original_class(root).__name__,
        "plan": _plan_of(root).to_dict() if is_attached(root) else None,
        "aliases": aliases,
        "frozen": sorted(name for name, parameter in parameters if not parameter.requires_grad),
        "non_persistent": sorted(name for name in {**tensors, **aliases} if name not in persistent),
    }
    if record is not None:
        description["pruning"] = record.to_dict()
    return description


def load(directory: str | os.PathLike[str], model: ModelT) -> ModelT:
    """Restore a model from :func:`save`, whatever its mapping was.

    Args:
        directory: what :func:`save` wrote.
        model: a plain model of the same architecture, or one that is compressed and pruned in the same way; it is
            changed in place and keeps its devices and dtypes. What it has on the meta device moves to the CPU, and
            what was frozen when it was saved is frozen again.

    Returns:
        The same model, compressed, pruned, or both, as it was saved.

    Raises:
        CheckpointError: if a file is missing, damaged or foreign, was written by a newer version, or belongs to
            another architecture. The model is then unchanged.
        ModelError: if the model cannot be compressed, such as a scripted one. It is then unchanged.
    """
    checkpoint = read(Path(directory))
    with pruned(model, checkpoint):
        root = find_root(model)
        if checkpoint.plan is None:
            found = find_pruned(model)
            root = model if found is None else found
            _check_state(checkpoint, root.state_dict(keep_vars=True), model)
        elif root is None:
            root, plan = model, match_plan(checkpoint, checkpoint.plan, model)
            _check_state(checkpoint, _fresh_state(checkpoint, model, plan), model)
            install(model, build_shared(checkpoint, plan))
        else:
            _check_wrapper(model, root)
            _check_same_plan(checkpoint, checkpoint.plan, _plan_of(root))
            _check_state(checkpoint, root.state_dict(keep_vars=True), root)
    _fill(root, checkpoint)
    return model


def pruned(model: nn.Module, checkpoint: Checkpoint) -> AbstractContextManager[None]:
    """Prune a model that is freshly built, if the checkpoint's was pruned; undone if what follows fails.

    Raises:
        CheckpointError: if the model has another architecture, or was compressed or pruned in another way.
    """
    record = checkpoint.pruning
    if checkpoint.plan is None and find_root(model) is not None:
        raise CheckpointError(
            f"the model is compressed, and the one in {checkpoint.folder} is not; "
            "load into a freshly built model, or call shapeshift.materialize(model) first"
        )
    if record is None or record == record_of(model):
        return nullcontext()
    if find_pruned(model) is not None or find_root(model) is not None:
        raise CheckpointError(
            f"the model in {checkpoint.folder} is pruned, and the one to load it into was already compressed or pruned "
            "in another way; load into a freshly built model"
        )
    _raise_if_different(checkpoint, cut_differences(model, record.cuts), model)
    return pruned_as(model, record)


def stored_tensors(root: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """List what a checkpoint of a compressed model stores.

    Args:
        root: the root of a compressed model.

    Returns:
        The tensors by name, and for each further name of a tensor the name that it is stored under.

    Raises:
        ModelError: if a module keeps extra state that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[Any, str] = {}
    # Buffers that a state dict leaves out are stored as well: a model on the meta device has no values for them.
    buffers = dict(root.named_buffers(remove_duplicate=False))
    for name, tensor in {**buffers, **root.state_dict(keep_vars=True)}.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{name} is state of type {type(tensor).__name__}, which a checkpoint cannot hold")
        first = first_names.setdefault(_memory(tensor), name)
        if first == name:
            tensors[name] = tensor
        else:
            aliases[name] = first
    return tensors, aliases


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
    _raise_if_different(checkpoint, found, model)

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


def _fresh_state(checkpoint: Checkpoint, model: nn.Module, plan: Plan) -> dict[str, Any]:
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


def _check_state(checkpoint: Checkpoint, state: Mapping[str, Any], model: nn.Module) -> None:
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
    _raise_if_different(checkpoint, differences, model)


def _check_same_plan(checkpoint: Checkpoint, saved: Plan, plan: Plan) -> None:
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


def _raise_if_different(checkpoint: Checkpoint, differences: list[str], model: nn.Module) -> None:
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


ResultT = TypeVar("ResultT")


def _guarded(checkpoint: Checkpoint, build: Callable[[], ResultT]) -> ResultT:
    """Run what relies on a plan from a file, and blame the file if it fails."""
    try:
        return build()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{checkpoint.file.name} is damaged: its plan does not work ({what}). Save the model again"
        ) from None


def _fill(root: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a compressed model the values of a checkpoint that was found to fit."""
    allocated = _allocate(root)
    if any(name.startswith(f"{ATTRIBUTE}.") for name in allocated):
        getattr(root, ATTRIBUTE).reset_parameters()
    persistent = {name: t for name, t in checkpoint.tensors.items() if name not in checkpoint.non_persistent}
    root.load_state_dict(persistent)
    buffers = dict(root.named_buffers(remove_duplicate=False))
    for name in checkpoint.non_persistent & allocated & set(buffers):
        buffers[name].copy_(checkpoint.tensors[name])
    for name, parameter in root.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name not in checkpoint.frozen)


def _allocate(root: nn.Module) -> set[str]:
    """Replace what is on the meta device by uninitialised memory, shared where it was shared; return its names."""
    memory: dict[Tensor, Tensor] = {}
    names = set()
    for path, module in root.named_modules(remove_duplicate=False):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_meta:
                continue
            if tensor not in memory:
                empty = torch.empty_like(tensor, device="cpu")
                is_parameter = isinstance(tensor, nn.Parameter)
                memory[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
            # setattr, for modules that keep track of their parameters, as RNNs do.
            setattr(module, name, memory[tensor])
            names.add(f"{path}.{name}" if path else name)
    return names


def _check_wrapper(model: nn.Module, root: nn.Module) -> None:
    """Refuse a model of which only a part is compressed: a checkpoint holds that part alone."""
    inside = {id(tensor) for tensor in _tensors(root)}
    if any(id(tensor) not in inside for tensor in _tensors(model)):
        path = next(path for path, module in model.named_modules() if module is root)
        raise ModelError(
            f"only {path} ({original_class(root).__name__}) is compressed, and {type(model).__name__} holds more than "
            f"that. Save and load model.{path} by itself, and the rest with torch.save(...)"
        )


def _check_plan(root: nn.Module) -> None:
    """Refuse a model that lacks a weight which its plan generates: no freshly built model would fit its checkpoint."""
    names = (name for group in _plan_of(root).groups for weight in group.weights for name in weight.names)
    lost = [name for name in names if not is_generated(root, name)]
    if lost:
        raise ModelError(
            f"{lost[0]} was generated when the model was compressed and is not any more: the layer was replaced. "
            "Replace layers before shapeshift.compress(model, ...), or after shapeshift.materialize(model)"
        )


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _plan_of(root: nn.Module) -> Plan:
    shared: SharedParameters = getattr(root, ATTRIBUTE)
    return shared.plan


def _memory(tensor: Tensor) -> Any:
    """Identify the memory behind a tensor; what has none is told apart by the object itself."""
    if tensor.numel() == 0 or tensor.is_meta or is_sharded(tensor):
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
