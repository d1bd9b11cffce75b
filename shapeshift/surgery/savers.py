"""Functions of other libraries that save a model by the names of its plain weights: they are refused."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

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


def check_saver(module: nn.Module) -> None:
    """Raise if a function is running that would save a model without the generated weights of a module.

    Raises:
        ModelError: if so. Functions of this package save the weights, and adapters beside frozen weights are complete.
    """
    for source, index in weight_sources(module).values() if is_attached(module) else ():
        owner = source.owner() if source.owner is not None else None
        if owner is not None and owner.is_built_in:
            return
        frozen = not any(parameter.requires_grad for parameter in source.generator.parameters())
        _check_callers(source.weights[index].name, frozen)


def _check_callers(name: str, frozen: bool) -> None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_ours(frame):
        saver, called_by = frame.f_code.co_name, frame.f_back
        if saver in _SAVERS:
            if (saver == _PICKS_ADAPTERS and frozen) or (called_by is not None and _is_ours(called_by)):
                return
            raise ModelError(
                f"{name} is generated from shared parameters, and {frame.f_globals['__name__']}.{saver} would write a "
                "checkpoint without it. Call shapeshift.save(model, folder) instead, or materialize the model first. "
                "Models of transformers have a save_pretrained after `import shapeshift.integrations.transformers`"
            )
        frame = called_by


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("shapeshift.") and not module.startswith("shapeshift.surgery.")
