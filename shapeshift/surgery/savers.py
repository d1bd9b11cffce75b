"""Functions of other libraries that save a model by the names of its plain weights: they are refused."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from torch import nn

from shapeshift.errors import ModelError
from shapeshift.surgery.attached import is_attached, weight_sources

# Functions of transformers, diffusers, the Hub and timm that write a model by the names of plain weights, and PEFT's,
# which picks the names of adapters.
_PICKS_ADAPTERS = "get_peft_model_state_dict"
_SAVERS = {"save_pretrained", "_save_pretrained", "save_for_hf", _PICKS_ADAPTERS}


def adapt_saver(base: Any, root: bool) -> dict[str, Any]:
    """A checkpoint by the names of plain weights lacks the generated ones: refuse to be written to one."""

    def _save_to_state_dict(self: nn.Module, *args: Any) -> None:
        check_saver(self)
        base._save_to_state_dict(self, *args)

    return {"_save_to_state_dict": _save_to_state_dict}


def adapt_save_pretrained(base: Any) -> Callable[..., Any]:
    """Refuse as well where the saver is given a state dict, and asks the model for none, and before PEFT writes."""

    @functools.wraps(base.save_pretrained)
    def save_pretrained(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        method = base.save_pretrained  # an import may have replaced it since
        where = getattr(method, "__globals__", {}).get("__name__", "")
        # PEFT writes other files before it asks for the state.
        if where.startswith("peft.") or (kwargs.get("state_dict") is not None and where.startswith("transformers.")):
            for name, _ in filter(None, map(_generated_in, self.modules())):
                _refuse(name, f"{where}.save_pretrained")
        return method(self, *args, **kwargs)

    return save_pretrained


def check_saver(module: nn.Module) -> None:
    """Raise if a function is running that would save a model without the generated weights of a module.

    Raises:
        ModelError: if so. Functions of this package save the weights, and adapters beside frozen weights are complete.
    """
    found = _generated_in(module)
    if found is not None:
        _check_callers(*found)


def _generated_in(module: nn.Module) -> tuple[str, bool] | None:
    """Return the name of a module's first generated weight, and whether its shared parameters are frozen.

    None for a module without one, and for a model that its architecture's name builds compressed.
    """
    for source, index in weight_sources(module).values() if is_attached(module) else ():
        owner = source.owner() if source.owner is not None else None
        if owner is not None and owner.is_built_in:
            return None
        return source.weights[index].name, not any(found.requires_grad for found in source.generator.parameters())
    return None


def _check_callers(name: str, frozen: bool) -> None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_ours(frame):
        saver, called_by = frame.f_code.co_name, frame.f_back
        if saver in _SAVERS and frame.f_globals.get("__name__") != __name__:
            is_base = frozen and f".{frame.f_locals.get('adapter_name')}." not in f".{name}."
            if (saver == _PICKS_ADAPTERS and is_base) or (called_by is not None and _is_ours(called_by)):
                return
            _refuse(name, f"{frame.f_globals['__name__']}.{saver}")
        frame = called_by


def _refuse(name: str, saver: str) -> NoReturn:
    what, package = (
        ("Adapters of PEFT", "peft") if saver.startswith("peft.") else ("Models of transformers", "transformers")
    )
    raise ModelError(
        f"{name} is generated from shared parameters, and {saver} would write a checkpoint without it. Call "
        f"shapeshift.save(model, folder) instead, or materialize the model first. {what} have a "
        f"save_pretrained after `import shapeshift.integrations.{package}`"
    )


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("shapeshift.") and not module.startswith("shapeshift.surgery.")
