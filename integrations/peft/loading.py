"""Loading a compressed adapter with the functions of PEFT, which compresses it in the model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import peft
from torch import nn

from shapeshift.checkpoint.matching import adapted_plan
from shapeshift.integrations.peft.content import SavedAdapter, State
from shapeshift.integrations.peft.names import names_of
from shapeshift.integrations.peft.plain import take_flags
from shapeshift.integrations.peft.plans import groups_of, merge
from shapeshift.integrations.peft.saving import GUARD
from shapeshift.surgery.install import check_installable, install, replace
from shapeshift.surgery.roots import find_root
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

# The functions of PEFT that are replaced.
set_state = peft.set_peft_model_state_dict
_from_json_file = peft.PeftConfig.from_json_file.__func__  # type: ignore[attr-defined]


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
    saved = SavedAdapter.of(peft_model_state_dict)
    if saved is None:
        return set_state(model, peft_model_state_dict, adapter_name, *args, **kwargs)
    root = find_root(model)
    if root is None:
        names = names_of(model, model, adapter_name)
        plan = saved.plan_for(names, model)
        check_installable(model, plan)
        result = set_state(model, saved.plain_state(), adapter_name, *args, **kwargs)
        shared = saved.build(adapted_plan(plan, model))
        take_flags(shared, model)
        install(model, shared)
        return result

    before: SharedParameters = getattr(root, ATTRIBUTE)
    results = []

    def load(plain: nn.Module) -> SharedParameters:
        plan = saved.plan_for(names_of(model, plain, adapter_name), plain)
        merged = merge(before.plan, plan)
        results.append(set_state(model, saved.plain_state(), adapter_name, *args, **kwargs))
        shared = before
        if merged is None:
            for group, own in zip(saved.plan.groups, groups_of(before.plan, plan), strict=True):
                before[own.name].load_state_dict(saved.tensors_of(group))
        else:
            added = merged.groups[len(before.plan.groups) :]
            new = saved.build(adapted_plan(dataclasses.replace(plan, groups=added), plain))
            shared = SharedParameters(
                dataclasses.replace(merged, groups=(*before.plan.groups, *new.plan.groups)),
                {name: generator for each in (before, new) for name, generator in each.items()},  # type: ignore[misc]
                {**before.fit_errors, **new.fit_errors},
            )
        take_flags(shared, plain)
        return shared

    replace(root, load)
    return results[0]


@functools.wraps(_from_json_file)
def from_json_file(cls: Any, path_json_file: Any, **kwargs: Any) -> Any:
    """Read the configuration of an adapter, compressed or not."""
    fields = _from_json_file(cls, path_json_file, **kwargs)
    if isinstance(fields.get("peft_type"), str):
        fields["peft_type"] = fields["peft_type"].removeprefix(GUARD)
    return fields
