"""Saving a compressed adapter with the functions of PEFT: in place of its weights, the shared parameters."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import peft

from shapeshift.integrations.peft.content import State, pack
from shapeshift.integrations.peft.names import get_state, keys_of, prefix_of
from shapeshift.integrations.peft.plain import on_plain, root_of
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters

# PEFT without this import does not find a method of this name, and shows the name in its error.
GUARD = "a compressed adapter: run `import shapeshift.integrations.peft` before loading it. Its method is "

_save_pretrained = peft.PeftModel.save_pretrained


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
    root = root_of(model, adapter_name)
    if root is None:
        found: State = get_state(model, state_dict, adapter_name, *args, **kwargs)
        return found
    shared: SharedParameters = getattr(root, ATTRIBUTE)

    def get() -> State:
        prefix = prefix_of(model, root)
        named = model.state_dict(keep_vars=True)
        weights = [name for weight in shared.plan.weights for name in weight.names]
        if state_dict is not None:
            named = {**state_dict, **{prefix + name: named[prefix + name] for name in weights}}
        own = {name: tensor for name, tensor in named.items() if not name.startswith(f"{prefix}{ATTRIBUTE}.")}
        state = get_state(model, own, adapter_name, *args, **kwargs)
        keys = keys_of(root, state)
        state = {key: tensor.detach() for key, tensor in state.items()}
        return pack(shared, state, keys, state_dict, prefix) if keys else state

    return on_plain(root, get)


@functools.wraps(_save_pretrained)
def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
    """Save a PEFT model, and write into the configuration of a compressed adapter that PEFT alone cannot load it."""
    _save_pretrained(self, save_directory, *args, **kwargs)
    for name, config in self.peft_config.items():
        folder = Path(save_directory, *([] if name == "default" else [name]))
        file = folder / "adapter_config.json"
        if root_of(self, name) is None or config.is_prompt_learning or not file.is_file():
            continue
        written = json.loads(file.read_text())
        if not written["peft_type"].startswith(GUARD):
            written["peft_type"] = GUARD + written["peft_type"]
            file.write_text(json.dumps(written, indent=2, sort_keys=True))
