"""What the state dict of a compressed model carries besides tensors, and what is checked before one is loaded."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from shapeshift.errors import CheckpointError, GeneratedWeightError
from shapeshift.plan import Plan
from shapeshift.surgery.attached import is_generated
from shapeshift.surgery.roots import check_registered
from shapeshift.surgery.savers import check_saver
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters
from shapeshift.surgery.sharing import sharing_difference

#: Where the plan is: in the metadata that a state dict has for the root, and on its first shared entry.
PLAN = "shapeshift_plan"


def adapt_saving(base: Any) -> Callable[..., None]:
    """Put the plan into the state dict's metadata: torch.save keeps it, and it is no entry of the state dict."""

    def save_to_state_dict(self: Any, destination: Any, prefix: str, keep_vars: bool) -> None:
        check_registered(self)
        check_saver(self)
        base._save_to_state_dict(self, destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[PLAN] = getattr(self, ATTRIBUTE).plan_text

    return save_to_state_dict


def adapt_state(base: Any) -> Callable[..., Any]:
    """Put the plan on a tensor of the state dict as well: it stays there if the dict is built anew from its items."""

    @functools.wraps(base.state_dict)
    def state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = base.state_dict(self, *args, **kwargs)
        first = _first_shared(state, kwargs.get("prefix", ""))
        if type(first) is Tensor and not kwargs.get("keep_vars"):  # no parameter, nor any that is sharded
            first.__dict__[PLAN] = getattr(self, ATTRIBUTE).plan_text
        return state

    return state_dict


def _first_shared(state_dict: Mapping[str, Any], prefix: str) -> Any:
    """Return the first entry of a state dict that belongs to the shared parameters; None without one."""
    return next((value for name, value in state_dict.items() if name.startswith(f"{prefix}{ATTRIBUTE}.")), None)


def adapt_loading(base: Any) -> Callable[..., None]:
    """Refuse the state of a model that was compressed in another way, before anything is copied into the model."""

    def load_from_state_dict(
        self: nn.Module, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any
    ) -> None:
        shared: SharedParameters = getattr(self, ATTRIBUTE)
        _check_compressed(self, shared.plan, state_dict, prefix)
        first = _first_shared(state_dict, prefix)
        plan = local_metadata.get(PLAN, getattr(first, PLAN, shared.plan_text))
        if plan != shared.plan_text and first is not None:
            _check_same_sharing(plan, shared.plan)
        base._load_from_state_dict(self, state_dict, prefix, local_metadata, *rest)

    return load_from_state_dict


def _check_compressed(root: nn.Module, plan: Plan, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Refuse the state dict of a plain model, of which only the parameters that are not generated would be loaded."""
    for weight in plan.weights:
        for name in weight.names:
            if prefix + name in state_dict and is_generated(root, name):
                raise GeneratedWeightError(
                    f"{prefix + name} {weight.shape} is generated from shared parameters, and the state dict holds it, "
                    "as that of a plain model does. Load the state dict into the plain model, and call "
                    'shapeshift.compress(model, budget, init="fit"), which fits the shared parameters to it'
                )


def _check_same_sharing(text: str, plan: Plan) -> None:
    try:
        difference = sharing_difference(Plan.from_dict(json.loads(text)), plan)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        difference = f"the state's plan cannot be read ({type(error).__name__}: {error})"
    if difference is not None:
        raise CheckpointError(
            f"the state dict is that of a model whose weights share in another way: {difference}. Build the model and "
            "compress it as that model was, or store it by shapeshift.save(model, directory), which keeps the plan"
        )
