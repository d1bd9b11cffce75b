"""Importing this lets PEFT save, load, switch and delete compressed adapters, in files of the budget's size.

``PeftModel.save_pretrained`` writes the shared parameters in place of the weights that they generate, and
``PeftModel.from_pretrained`` and ``load_adapter`` read them. The same holds for ``get_peft_model_state_dict`` and
``set_peft_model_state_dict``, through which PEFT and Trainers go. Adapters that are not compressed are saved and loaded
as before.

Every function of PEFT runs here on the plain model, which has a parameter for each weight. So PEFT finds, names and
checks them by its own rules. The layers read the shared parameters again afterwards.
"""

from __future__ import annotations

import sys
from typing import Any

import peft

from shapeshift.integrations.peft.loading import from_json_file, set_peft_model_state_dict, set_state
from shapeshift.integrations.peft.names import get_state
from shapeshift.integrations.peft.plain import adding, editing, flagging
from shapeshift.integrations.peft.saving import get_peft_model_state_dict, save_pretrained

__all__ = ["get_peft_model_state_dict", "set_peft_model_state_dict"]


def _register() -> None:
    """Put the functions of this package in the places where PEFT has its own."""
    for module in [found for name, found in list(sys.modules.items()) if name.partition(".")[0] == "peft"]:
        for before, function in ((get_state, get_peft_model_state_dict), (set_state, set_peft_model_state_dict)):
            if vars(module).get(function.__name__) is before:
                setattr(module, function.__name__, function)
    model_class: Any = peft.PeftModel
    model_class.save_pretrained = save_pretrained
    kinds = {"add_adapter": editing, "delete_adapter": editing, "set_adapter": flagging, "set_requires_grad": flagging}
    for name, kind in kinds.items():
        setattr(model_class, name, kind(getattr(model_class, name)))
    model_class.add_adapter = adding(model_class.add_adapter)
    config_class: Any = peft.config.PeftConfigMixin
    config_class.from_json_file = classmethod(from_json_file)  # type: ignore[arg-type]


_register()
