"""Importing this replaces ``PreTrainedModel.from_pretrained`` and registers the quantization method "shapeshift".

transformers loads a compressed model through the hook for quantized models: :class:`ShapeshiftQuantizer`. The new
``from_pretrained`` adds the recipe of the folder to a configuration that the user gives without one. The import also
sets ``LazyWeight._is_hf_initialized``, so that transformers does not initialise generated weights.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from shapeshift.checkpoint.checkpoint import Checkpoint
from shapeshift.checkpoint.loading import pruned
from shapeshift.checkpoint.snapshot import find_saved_root
from shapeshift.errors import CheckpointError, ConfigError
from shapeshift.integrations.transformers.recipe import METHOD, ShapeshiftConfig
from shapeshift.plan import Plan
from shapeshift.surgery.attached import is_generated
from shapeshift.surgery.install import install
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.surgery.shared_parameters import ATTRIBUTE

# transformers initialises the weights that a checkpoint lacks. Generated weights are in no checkpoint.
LazyWeight._is_hf_initialized = True  # type: ignore[attr-defined]


_from_pretrained = transformers.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]


@functools.wraps(_from_pretrained)
def from_pretrained(cls: Any, path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
    """Load a model of transformers, with the recipe of its folder if the user's own configuration has none.

    Without a recipe, transformers would initialise the generated weights at random.
    """
    if isinstance(config, transformers.PreTrainedConfig) and not hasattr(config, "quantization_config"):
        file = Path(path or "", kwargs.get("subfolder", ""), "config.json")
        written = json.loads(file.read_text()).get("quantization_config") if file.is_file() else None
        if written is not None and written.get("quant_method") == METHOD:
            config = copy.deepcopy(config)
            config.quantization_config = written
    return _from_pretrained(cls, path, *args, config=config, **kwargs)


transformers.PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[arg-type, assignment]


@register_quantizer(METHOD)
class ShapeshiftQuantizer(HfQuantizer):
    """Compress a model by the recipe in its configuration, before transformers loads its parameters.

    A loaded model is the same as after :func:`shapeshift.compress`, and has no quantizer.
    """

    quantization_config: ShapeshiftConfig

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Check the options of ``from_pretrained`` before the model is built."""
        if not self.pre_quantized:
            raise ConfigError(
                "quantization_config: load the model as it is, and call shapeshift.compress(model, budget)"
            )
        places = set(device_map.values()) if isinstance(device_map, dict) else set()
        if len(places) > 1 or "disk" in places:
            raise ConfigError(
                f"device_map: a compressed model is generated from parameters that all its layers share, and cannot be "
                f"spread over {', '.join(sorted(map(str, places)))}. Name one device, such as device_map=0"
            )

    def update_attn_implementation(self, config: Any) -> Any:
        """Remove the field that keeps transformers from loading the model without this package."""
        vars(config).pop("transformers_weights", None)
        return config

    update_tp_plan = update_attn_implementation  # transformers 5.0 passes the configuration to this method

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        self.checkpoint = Checkpoint.parse(
            self.quantization_config.recipe, Path(model.config.name_or_path or "") / "config.json"
        )
        self.ties: dict[str, str] = model.all_tied_weights_keys
        self.patterns: dict[str, Tensor] = {}
        plan = self.checkpoint.plan
        root = _root(model, self.quantization_config.module, plan)
        with pruned(root, self.checkpoint):
            if plan is not None:
                self._compress(model, root, plan)
        return model

    def _compress(self, model: Any, root: nn.Module, plan: Plan) -> None:
        # transformers ties weights after loading. The plan and the configuration say which weights those are.
        for weight in (weight for group in plan.groups for weight in group.weights):
            for name in weight.names[1:]:
                _tie(root, weight.name, name)
        for target, source in self.ties.items():
            _tie(model, source, target)
        try:
            matched = self.checkpoint.plan_for(root)
        except CheckpointError as error:
            kind = self.checkpoint.architecture
            raise CheckpointError(
                f"{error}\nFor another head, load it as {kind}, call shapeshift.materialize(model), save that and load "
                "it with the head. Checkpoints of which only the base model was compressed, by "
                "shapeshift.compress(model.base_model, ...), take any head"
            ) from None
        shared = self.checkpoint.build_shared(matched)
        install(root, shared)
        persistent = shared.state_dict()
        self.patterns = {name: buffer for name, buffer in shared.named_buffers() if name not in persistent}
        model.all_tied_weights_keys = {
            target: source
            for target, source in self.ties.items()
            if not is_generated(model, target) and not is_generated(model, source)
        }

    def postprocess_model(self, model: Any, **kwargs: Any) -> None:
        """Remove the quantizer from the model, and set what a checkpoint of transformers does not hold."""
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        del model.is_quantized
        model.all_tied_weights_keys = self.ties
        found = find_saved_root(model)
        root = model if found is None else found
        state = root.state_dict(keep_vars=True)
        missing = [
            name
            for name, tensor in state.items()
            if name.startswith(f"{ATTRIBUTE}.") and not getattr(tensor, "_is_hf_initialized", False)
        ]
        if missing:
            raise CheckpointError(
                f"the weights in {self.checkpoint.folder} lack {missing[0]} "
                f"({len(missing)} of the shared parameters are missing); save the model again"
            )
        for name, pattern in self.patterns.items():
            root.get_submodule(ATTRIBUTE).get_buffer(name).copy_(pattern)
        for name, parameter in root.named_parameters(remove_duplicate=False):
            if name in self.checkpoint.frozen:
                parameter.requires_grad_(False)

    def is_serializable(self) -> bool:
        """Say that a loaded model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that a loaded model can be trained."""
        return True


def _root(model: Any, path: str, plan: Plan | None) -> nn.Module:
    """Return the module to compress: the module at the path, or the base model if that has the plan's weights."""
    there: nn.Module = dict(model.named_modules()).get(path, model)
    names = {name for group in (plan.groups if plan else ()) for weight in group.weights for name in weight.names}
    fitting = [module for module in (there, model.base_model) if names <= _names(module)]
    return fitting[0] if fitting else there


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters(remove_duplicate=False)}


def _tie(module: nn.Module, source: str, target: str) -> None:
    """Make two names of a module refer to one parameter, if it has parameters of both names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if source in parameters and target in parameters:
        path, _, name = target.rpartition(".")
        module.get_submodule(path)._parameters[name] = parameters[source]
