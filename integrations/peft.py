"""Importing this lets PEFT save, load, switch and delete compressed adapters, in files of the budget's size.

``PeftModel.save_pretrained`` writes the shared parameters in place of the weights that they generate, and
``PeftModel.from_pretrained`` and ``load_adapter`` read them. The same holds for ``get_peft_model_state_dict`` and
``set_peft_model_state_dict``, through which PEFT and Trainers go. Adapters that are not compressed are saved and loaded
as before.

Every function of PEFT runs here on the plain model, which has a parameter for each weight. So PEFT finds, names and
checks them by its own rules. The layers read the shared parameters again afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import peft
import torch
from torch import Tensor, nn

from shapeshift.checkpoint.checkpoint import Checkpoint, stamped
from shapeshift.checkpoint.content import deflated, inflated
from shapeshift.checkpoint.matching import adapted_plan
from shapeshift.checkpoint.packing import Kept
from shapeshift.errors import CheckpointError
from shapeshift.mappings import Assignment
from shapeshift.plan import GroupPlan, Plan
from shapeshift.surgery.install import check_installable, install, make_plain, replace
from shapeshift.surgery.roots import find_root
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

__all__ = ["get_peft_model_state_dict", "set_peft_model_state_dict"]

# The first bytes of the tensor that describes a compressed adapter. It has the name of a weight, and a shape that no
# weight has, so that PEFT without this import refuses it.
_MAGIC = b"shapeshift:"

# PEFT without this import does not find a method of this name, and shows the name in its error.
_GUARD = "a compressed adapter: run `import shapeshift.integrations.peft` before loading it. Its method is "

# The options that say how a generator works. Adapters of one model have to agree in them.
_OPTIONS = ("combine", "upsample", "embedding_size", "ring_block", "store", "store_noise")

_get_state = peft.get_peft_model_state_dict
_set_state = peft.set_peft_model_state_dict

State = dict[str, Tensor]
ResultT = TypeVar("ResultT")


def get_peft_model_state_dict(
    model: Any, state_dict: Any = None, adapter_name: str = "default", *args: Any, **kwargs: Any
) -> State:
    """Return the state of an adapter as PEFT's function does; of a compressed one, the shared parameters.

    Args:
        model: The PEFT model.
        state_dict: The state of the model, where it was gathered already.
        adapter_name: The name of the adapter.
        *args: Further arguments of PEFT's function.
        **kwargs: Further arguments of PEFT's function.

    Returns:
        The tensors by name. The first generated weight has its name on a tensor of bytes, the description of how the
        weights are generated. The names of shared parameters start with ``shapeshift.``. The methods that learn a
        prompt have the prompt itself, as in PEFT.

    Example:
        >>> import peft, torch, shapeshift
        >>> from shapeshift.integrations.peft import get_peft_model_state_dict
        >>> config = peft.LoraConfig(target_modules=["0"])
        >>> model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), config)
        >>> model = shapeshift.compress(model, 100)
        >>> [name for name in get_peft_model_state_dict(model) if name.startswith("shapeshift.")]
        ['shapeshift.all.zero_factors', 'shapeshift.all.gains', 'shapeshift.all.store.0']
    """
    root = _root_of(model, adapter_name)
    if root is None:
        found: State = _get_state(model, state_dict, adapter_name, *args, **kwargs)
        return found
    shared: SharedParameters = getattr(root, ATTRIBUTE)

    def get() -> State:
        prefix = _prefix(model, root)
        named = model.state_dict(keep_vars=True)
        weights = [name for weight in shared.plan.weights for name in weight.names]
        if state_dict is not None:
            named = {**state_dict, **{prefix + name: named[prefix + name] for name in weights}}
        own = {name: tensor for name, tensor in named.items() if not name.startswith(f"{prefix}{ATTRIBUTE}.")}
        state = _get_state(model, own, adapter_name, *args, **kwargs)
        keys = _keys(root, state)
        state = {key: tensor.detach() for key, tensor in state.items()}
        return _packed(shared, state, keys, state_dict, prefix) if keys else state

    return _on_plain(root, get)


def set_peft_model_state_dict(
    model: Any, peft_model_state_dict: State, adapter_name: str = "default", *args: Any, **kwargs: Any
) -> Any:
    """Load the state of an adapter as PEFT's function does; that of a compressed one compresses the adapter.

    Args:
        model: The PEFT model, which has the adapter. It is changed in place.
        peft_model_state_dict: What :func:`get_peft_model_state_dict` returned.
        adapter_name: The name of the adapter.
        *args: Further arguments of PEFT's function.
        **kwargs: Further arguments of PEFT's function.

    Returns:
        What PEFT's function returns.

    Raises:
        CheckpointError: if the state is damaged, or belongs to another model, or the adapter is compressed in another
            way, or another adapter of the model is made by another kind of generator.
        ModelError: if the base model is compressed itself.

    Example:
        >>> import peft, torch, shapeshift
        >>> from shapeshift.integrations.peft import get_peft_model_state_dict, set_peft_model_state_dict
        >>> def build():
        ...     config = peft.LoraConfig(target_modules=["0"])
        ...     return peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), config)
        >>> model, fresh = shapeshift.compress(build(), "50%"), build()
        >>> result = set_peft_model_state_dict(fresh, get_peft_model_state_dict(model))
        >>> shapeshift.is_compressed(fresh)
        True
    """
    saved = _Saved.of(peft_model_state_dict)
    if saved is None:
        return _set_state(model, peft_model_state_dict, adapter_name, *args, **kwargs)
    root = find_root(model)
    if root is None:
        names = _names(model, model, adapter_name)
        plan = saved.plan_for(names, model)
        check_installable(model, plan)
        result = _set_state(model, saved.plain_state(), adapter_name, *args, **kwargs)
        shared = saved.build(adapted_plan(plan, model))
        _take_flags(shared, model)
        install(model, shared)
        return result

    before: SharedParameters = getattr(root, ATTRIBUTE)
    results = []

    def load(plain: nn.Module) -> SharedParameters:
        plan = saved.plan_for(_names(model, plain, adapter_name), plain)
        merged = _merged(before.plan, plan)
        results.append(_set_state(model, saved.plain_state(), adapter_name, *args, **kwargs))
        shared = before
        if merged is None:
            for (group, _), own in zip(saved.groups(), _groups_of(before.plan, plan), strict=True):
                before[own.name].load_state_dict(saved.tensors_of(group))
        else:
            added = merged.groups[len(before.plan.groups) :]
            new = saved.build(adapted_plan(dataclasses.replace(plan, groups=added), plain))
            shared = SharedParameters(
                dataclasses.replace(merged, groups=(*before.plan.groups, *new.plan.groups)),
                {name: generator for each in (before, new) for name, generator in each.items()},  # type: ignore[misc]
                {**before.fit_errors, **new.fit_errors},
            )
        _take_flags(shared, plain)
        return shared

    replace(root, load)
    return results[0]


def _on_plain(root: nn.Module, action: Callable[[], ResultT]) -> ResultT:
    """Run a function while the model is plain, and compress it again; weights that are gone by then are left out."""
    before: SharedParameters = getattr(root, ATTRIBUTE)
    results: list[ResultT] = []

    def act(plain: nn.Module) -> SharedParameters:
        results.append(action())
        left = dict(plain.named_parameters(remove_duplicate=False))
        groups = tuple(_renamed(group, lambda name: (name,) if name in left else ()) for group in before.plan.groups)
        shared = before
        if groups != before.plan.groups:
            groups = tuple(group for group in groups if any(weight.names for weight in group.weights))
            kept = {group.name: before[group.name] for group in groups}
            shared = SharedParameters(dataclasses.replace(before.plan, groups=groups), kept)  # type: ignore[arg-type]
        _take_flags(shared, plain)
        return shared

    replace(root, act)
    remaining: SharedParameters = getattr(root, ATTRIBUTE)
    if not remaining.plan.groups:
        make_plain(root)
    return results[0]


def _root_of(model: Any, adapter_name: str) -> nn.Module | None:
    """Return the root of a compressed model if it generates weights of an adapter; None if it does not."""
    root = find_root(model)
    if root is None:
        return None
    adapters: Mapping[str, Any] = model.peft_config
    shared: SharedParameters = getattr(root, ATTRIBUTE)
    names = [f".{name}." for weight in shared.plan.weights for name in weight.names]
    if root is model:  # some methods have no names of adapters in those of their weights
        others = [f".{other}." for other in adapters if other != adapter_name]
        return root if any(not any(other in name for other in others) for name in names) else None
    return root if any(f".{adapter_name}." in name for name in names) else None


def _prefix(model: nn.Module, root: nn.Module) -> str:
    """Return what the names of a root's parameters start with in a model."""
    return next(f"{path}." if path else "" for path, module in model.named_modules() if module is root)


def _keys(root: nn.Module, state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the keys of each parameter of a plain model in the state of an adapter, by the parameter's name."""
    keys: dict[int, list[str]] = {}
    for key, tensor in state.items():
        keys.setdefault(id(tensor), []).append(key)
    parameters = root.named_parameters(remove_duplicate=False)
    return {name: tuple(keys[id(parameter)]) for name, parameter in parameters if id(parameter) in keys}


def _names(model: Any, root: nn.Module, adapter_name: str) -> dict[str, tuple[str, ...]]:
    """Return the names of each parameter of an adapter in a plain model, by each of its keys in the adapter's state."""
    state = _get_state(model, model.state_dict(keep_vars=True), adapter_name)
    names: dict[str, list[str]] = {}
    for name, keys in _keys(root, state).items():
        for key in keys:
            names.setdefault(key, []).append(name)
    return {key: tuple(found) for key, found in names.items()}


def _renamed(group: GroupPlan, names_of: Callable[[str], tuple[str, ...]]) -> GroupPlan:
    """Return a group whose weights have other names; a weight of no name is read by no layer."""
    weights = (
        dataclasses.replace(weight, names=tuple(dict.fromkeys(new for name in weight.names for new in names_of(name))))
        for weight in group.weights
    )
    return dataclasses.replace(group, weights=tuple(weights))


def _with_groups(plan: Plan, groups: tuple[GroupPlan, ...]) -> Plan:
    """Return a plan with other groups, and the mapping that leads to them."""
    config = plan.config
    if isinstance(config.mapping, Assignment):
        named = {name: group.name for group in groups for weight in group.weights for name in weight.names}
        config = dataclasses.replace(config, mapping=Assignment(named))
    return dataclasses.replace(plan, config=dataclasses.replace(config, include=(), exclude=()), groups=groups)


def _packed(
    shared: SharedParameters,
    state: State,
    keys: Mapping[str, tuple[str, ...]],
    given: Mapping[str, Tensor] | None,
    prefix: str,
) -> State:
    """Return the state of an adapter with shared parameters in place of the weights that they generate."""
    groups = tuple(_renamed(group, lambda name: keys.get(name, ())) for group in shared.plan.groups)
    groups = tuple(group for group in groups if any(weight.names for weight in group.weights))
    generated = [key for group in groups for weight in group.weights for key in weight.names]
    if not generated:
        return state
    plan = _with_groups(shared.plan, groups)
    errors = {key: error for name, error in shared.fit_errors.items() for key in keys.get(name, ())}
    content, packed = {}, []
    for group in groups:
        generator: Any = shared[group.name]
        stored = set(generator.stored_names())
        for name, tensor in generator.state_dict().items():
            full = f"{ATTRIBUTE}.{group.name}.{name}"
            tensor = tensor if given is None else given.get(prefix + full, tensor)
            kept = Kept.of(full, tensor, generator.store_format if name in stored else None)
            content[full] = kept.keep(tensor)
            packed += [kept.to_dict()] if kept.is_packed else []
    description = {"plan": {**plan.to_dict(), "errors": errors}, "packed": packed, "architecture": "adapter"}
    text = _MAGIC + json.dumps({**stamped({}), "content": deflated(description)}).encode()
    plain = {key: tensor for key, tensor in state.items() if key not in generated}
    return {generated[0]: torch.from_numpy(np.frombuffer(text, np.uint8).copy()), **plain, **content}


@dataclasses.dataclass(frozen=True)
class _Saved:
    """A compressed adapter as its file holds it.

    Attributes:
        plan: the plan, whose weights have the adapter's keys as names.
        errors: the relative error of each weight after a fit, by its first key.
        shared: the shared parameters by name.
        rest: the other entries of the state.
    """

    plan: Plan
    errors: dict[str, float]
    shared: State
    rest: State

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Saved | None:
        """Read the state of an adapter; None if it is not compressed.

        Raises:
            CheckpointError: if it is damaged, or was written by a newer version.
        """
        for key, tensor in state.items():
            if isinstance(tensor, Tensor) and tensor.dtype == torch.uint8 and tensor.ndim == 1:
                text = tensor.cpu().numpy().tobytes()
                if text.startswith(_MAGIC):
                    return cls._read(key, text[len(_MAGIC) :], state)
        return None

    @classmethod
    def _read(cls, key: str, text: bytes, state: Mapping[str, Any]) -> _Saved:
        file = Path(f"the state of the adapter with {key}")
        try:
            stamp = json.loads(text)
            described = {**stamp, **inflated(stamp["content"])}
            described |= {"aliases": {}, "frozen": (), "non_persistent": ()}
            packed = {entry["name"]: Kept.from_dict(entry) for entry in described["packed"]}
            shared = {name: tensor for name, tensor in state.items() if name.startswith(f"{ATTRIBUTE}.")}
            shared |= {name: kept.take(shared[name]) for name, kept in packed.items()}
        except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{file} is damaged: it cannot be read ({what}). Save the adapter again") from None
        checkpoint = Checkpoint.parse(described, file)
        assert checkpoint.plan is not None
        rest = {name: tensor for name, tensor in state.items() if name != key and name not in shared}
        return cls(checkpoint.plan, checkpoint.fit_errors, shared, rest)

    def groups(self) -> Iterator[tuple[GroupPlan, int]]:
        """Yield the groups, and the number of each."""
        for number, group in enumerate(self.plan.groups):
            yield group, number

    def tensors_of(self, group: GroupPlan) -> State:
        """Return the state of a group's generator."""
        prefix = f"{ATTRIBUTE}.{group.name}."
        return {name.removeprefix(prefix): tensor for name, tensor in self.shared.items() if name.startswith(prefix)}

    def plain_state(self) -> State:
        """Return the state of the adapter as if it were not compressed."""
        shared = self.build(self.plan)
        values = dict(self.rest)
        with torch.no_grad():
            for generator in shared.generators():
                for weight, value in zip(
                    generator.weights, generator.generate(range(len(generator.weights))), strict=True
                ):
                    values |= {key: value.clone() for key in weight.names}
        return values

    def build(self, plan: Plan) -> SharedParameters:
        """Build the shared parameters of the plan, or of one with other names, dtypes and devices.

        Raises:
            CheckpointError: if the state does not fit the plan.
        """
        names = dict(zip(self._weight_names(self.plan), self._weight_names(plan), strict=True))
        errors = {names[key]: error for key, error in self.errors.items() if key in names}
        try:
            shared = SharedParameters(plan, fit_errors=errors)
            for group, own in zip(self.plan.groups, plan.groups, strict=True):
                shared[own.name].load_state_dict(self.tensors_of(group))
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the state of the adapter does not fit its plan ({error}). Save it again") from None
        return shared

    def _weight_names(self, plan: Plan) -> list[str]:
        return [weight.name for weight in plan.weights]

    def plan_for(self, names: Mapping[str, tuple[str, ...]], model: nn.Module) -> Plan:
        """Return the plan with the names of parameters of a plain model.

        Args:
            names: The names of each parameter, by its keys.
            model: The model.

        Raises:
            CheckpointError: if the model lacks a weight, or has it in another shape.
        """
        for weight in self.plan.weights:
            for key in weight.names:
                if key not in names:
                    raise CheckpointError(
                        f"{key} {weight.shape} is in the adapter and not in the model: build the base model, and name "
                        "the layers to adapt, as when the adapter was saved"
                    )
                shape = tuple(model.get_parameter(names[key][0]).shape)
                if shape != weight.shape:
                    raise CheckpointError(f"{key} is {weight.shape} in the adapter and {shape} in the model")
        return _with_groups(self.plan, tuple(_renamed(group, names.__getitem__) for group in self.plan.groups))


def _groups_of(plan: Plan, part: Plan) -> list[GroupPlan]:
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


def _merged(plan: Plan, added: Plan) -> Plan | None:
    """Return the plan of a model that gets another compressed adapter; None if it has that adapter already.

    Raises:
        CheckpointError: if the two do not fit together.
    """
    own = {name for weight in plan.weights for name in weight.names}
    if any(name in own for weight in added.weights for name in weight.names):
        _groups_of(plan, added)
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
    return _with_groups(dataclasses.replace(plan, **counts, budget_bytes=None), (*plan.groups, *groups))


def _take_flags(shared: SharedParameters, plain: nn.Module) -> None:
    """Let shared parameters train if a weight does that they generate, and hold the other weights."""
    for generator in shared.generators():
        named = [(index, weight.names) for index, weight in enumerate(generator.weights) if weight.names]
        free = {index for index, names in named if plain.get_parameter(names[0]).requires_grad}
        if bool(free) != any(parameter.requires_grad for parameter in generator.parameters()):
            generator.requires_grad_(bool(free))
        generator.held = frozenset(index for index, _ in named if index not in free) if free else frozenset()


def _editing(method: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """Let a method of a PEFT model that changes an adapter run on the plain model."""

    @functools.wraps(method)
    def edit(self: Any, *args: Any, **kwargs: Any) -> ResultT:
        roots = [_root_of(self, name) for name in self.peft_config]
        root = next((found for found in roots if found is not None), None)
        if root is None:
            return method(self, *args, **kwargs)
        return _on_plain(root, lambda: method(self, *args, **kwargs))

    return edit


_save_pretrained = peft.PeftModel.save_pretrained
_from_json_file = peft.PeftConfig.from_json_file.__func__  # type: ignore[attr-defined]


@functools.wraps(_save_pretrained)
def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
    """Save a PEFT model, and write into the configuration of a compressed adapter that PEFT alone cannot load it."""
    _save_pretrained(self, save_directory, *args, **kwargs)
    for name, config in self.peft_config.items():
        folder = Path(save_directory, *([] if name == "default" else [name]))
        file = folder / "adapter_config.json"
        if _root_of(self, name) is None or config.is_prompt_learning or not file.is_file():
            continue
        written = json.loads(file.read_text())
        if not written["peft_type"].startswith(_GUARD):
            written["peft_type"] = _GUARD + written["peft_type"]
            file.write_text(json.dumps(written, indent=2, sort_keys=True))


@functools.wraps(_from_json_file)
def from_json_file(cls: Any, path_json_file: Any, **kwargs: Any) -> Any:
    """Read the configuration of an adapter, compressed or not."""
    fields = _from_json_file(cls, path_json_file, **kwargs)
    if isinstance(fields.get("peft_type"), str):
        fields["peft_type"] = fields["peft_type"].removeprefix(_GUARD)
    return fields


def _register() -> None:
    """Put the functions of this module in the places where PEFT has its own."""
    for module in [found for name, found in list(sys.modules.items()) if name.partition(".")[0] == "peft"]:
        for before, function in ((_get_state, get_peft_model_state_dict), (_set_state, set_peft_model_state_dict)):
            if vars(module).get(function.__name__) is before:
                setattr(module, function.__name__, function)
    model_class: Any = peft.PeftModel
    model_class.save_pretrained = save_pretrained
    for name in ("add_adapter", "set_adapter", "set_requires_grad", "delete_adapter"):
        setattr(model_class, name, _editing(getattr(model_class, name)))
    config_class: Any = peft.config.PeftConfigMixin
    config_class.from_json_file = classmethod(from_json_file)  # type: ignore[arg-type]


_register()
