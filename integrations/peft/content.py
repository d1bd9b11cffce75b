"""What the file of a compressed adapter holds: the shared parameters, and how they generate the weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shapeshift.checkpoint.checkpoint import Checkpoint, stamped
from shapeshift.checkpoint.content import deflated, inflated
from shapeshift.checkpoint.packing import Kept
from shapeshift.errors import CheckpointError
from shapeshift.integrations.peft.plans import renamed, with_groups
from shapeshift.plan import GroupPlan, Plan
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

# The first bytes of the tensor that describes a compressed adapter. It has the name of a weight, and a shape that no
# weight has, so that PEFT without this import refuses it.
_MAGIC = b"shapeshift:"

State = dict[str, Tensor]


def pack(
    shared: SharedParameters,
    state: State,
    keys: Mapping[str, tuple[str, ...]],
    given: Mapping[str, Tensor] | None,
    prefix: str,
) -> State:
    """Return the state of an adapter with shared parameters in place of the weights that they generate."""
    groups = tuple(renamed(group, lambda name: keys.get(name, ())) for group in shared.plan.groups)
    groups = tuple(group for group in groups if any(weight.names for weight in group.weights))
    generated = [key for group in groups for weight in group.weights for key in weight.names]
    if not generated:
        return state
    plan = with_groups(shared.plan, groups)
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
class SavedAdapter:
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
    def of(cls, state: Mapping[str, Any]) -> SavedAdapter | None:
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
    def _read(cls, key: str, text: bytes, state: Mapping[str, Any]) -> SavedAdapter:
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
        names = {saved.name: own.name for saved, own in zip(self.plan.weights, plan.weights, strict=True)}
        errors = {names[key]: error for key, error in self.errors.items() if key in names}
        try:
            shared = SharedParameters(plan, fit_errors=errors)
            for group, own in zip(self.plan.groups, plan.groups, strict=True):
                shared[own.name].load_state_dict(self.tensors_of(group))
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the state of the adapter does not fit its plan ({error}). Save it again") from None
        return shared

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
        return with_groups(self.plan, tuple(renamed(group, names.__getitem__) for group in self.plan.groups))
