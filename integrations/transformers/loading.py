"""Importing this replaces ``PreTrainedModel.from_pretrained`` and registers the quantization method "shapeshift".

transformers loads a compressed model through the hook for quantized models: :class:`ShapeshiftQuantizer`. The new
``from_pretrained`` adds the recipe of the folder to a configuration that the user gives without one. The import also
sets ``LazyWeight._is_hf_initialized``, so that transformers does not initialise generated weights.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from shapeshift.checkpoint.checkpoint import Checkpoint
from shapeshift.checkpoint.loading import pruned
from shapeshift.checkpoint.snapshot import find_saved_root
from shapeshift.errors import CheckpointError, ConfigError
from shapeshift.integrations.transformers.heads import Fit, fit_recipe
from shapeshift.integrations.transformers.recipe import METHOD, ShapeshiftConfig
from shapeshift.surgery.attached import is_generated
from shapeshift.surgery.install import install
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.surgery.shared_parameters import ATTRIBUTE

# transformers initialises the weights that a checkpoint lacks. Generated weights are in no checkpoint.
LazyWeight._is_hf_initialized = True  # type: ignore[attr-defined]


_from_pretrained = transformers.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]


@functools.wraps(_from_pretrained)
def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Load a model of transformers, with the recipe of its folder if the user's own configuration has none.

    Without a recipe, transformers would initialise the generated weights at random.
    """
    config = kwargs.get("config")
    if isinstance(config, transformers.PreTrainedConfig) and not hasattr(config, "quantization_config"):
        folder = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        file = Path(folder or "", kwargs.get("subfolder", ""), "config.json")
        written = json.loads(file.read_text()).get("quantization_config") if file.is_file() else None
        if written is not None and written.get("quant_method") == METHOD:
            kwargs["config"] = copy.deepcopy(config)
            kwargs["config"].quantization_config = written
    return _from_pretrained(cls, *args, **kwargs)


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

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> Any:
        self.checkpoint = Checkpoint.parse(
            self.quantization_config.recipe, Path(model.config.name_or_path or "") / "config.json"
        )
        self.ties: dict[str, str] = model.all_tied_weights_keys
        self.frozen = self.checkpoint.frozen
        self.patterns: dict[str, Tensor] = {}
        stored = _stored_names(checkpoint_files or ())
        with pruned(self._root(model, stored), self.checkpoint):
            if self.checkpoint.plan is not None:
                self._compress(model, self._fit(model, stored))
        return model

    def _root(self, model: Any, stored: Collection[str]) -> nn.Module:
        """Return the module of a model that was compressed or pruned when it was saved."""
        path = self.quantization_config.module
        if self.checkpoint.plan is not None:
            return fit_recipe(self.checkpoint, model, path, stored).root
        found: nn.Module = dict(model.named_modules()).get(path, model)
        return found

    def _fit(self, model: Any, stored: Collection[str]) -> Fit:
        """Fit the recipe to a model: as a whole to the class that was saved, and what they share to any other."""
        fit = fit_recipe(self.checkpoint, model, self.quantization_config.module, stored)
        same = type(model).__name__ in (model.config.architectures or [self.checkpoint.architecture])
        assert fit.checkpoint.plan is not None
        if (fit.lost and same) or not fit.checkpoint.plan.groups:
            self.checkpoint.plan_for(fit.root)  # raises the error that names the differences
        if fit.apart:
            raise CheckpointError(
                f"{' and '.join(fit.apart[0])} are tied in a {type(model).__name__}, and only one of them is generated "
                f"in {self.checkpoint.folder}. Load it as {self.checkpoint.architecture}, call "
                "shapeshift.materialize(model), save that and load it with this head"
            )
        for weight in fit.checkpoint.plan.weights:
            for name in weight.names[1:]:  # transformers ties after loading
                _tie(fit.root, weight.name, name)
        return fit if same and not fit.mismatched else fit.recounted()

    def _compress(self, model: Any, fit: Fit) -> None:
        """Compress a model by a recipe that was fitted to it."""
        self.ties = {target: source for target, source in self.ties.items() if target not in fit.untied}
        self._keep_precision(model, fit)
        shared = fit.checkpoint.build_shared(fit.checkpoint.plan_for(fit.root))
        install(fit.root, shared)
        self.frozen = fit.checkpoint.frozen
        persistent = shared.state_dict()
        self.patterns = {name: buffer for name, buffer in shared.named_buffers() if name not in persistent}
        model.all_tied_weights_keys = {
            target: source
            for target, source in self.ties.items()
            if not is_generated(model, target) and not is_generated(model, source)
        }
        adjust = model._adjust_missing_and_unexpected_keys

        def report_what_was_lost(info: Any, *rest: Any) -> Any:
            """Name the generated weights that the model lacks, or has in another shape, among the others."""
            if hasattr(info, "mismatched_keys"):
                info.unexpected_keys |= set(fit.lost)
                info.mismatched_keys |= set(fit.mismatched)
                info.missing_keys -= {name for name, *_ in fit.mismatched}
            return adjust(info, *rest)

        # transformers calls it with all that it found missing or unexpected, before it reports on that.
        vars(model)["_adjust_missing_and_unexpected_keys"] = report_what_was_lost

    def _keep_precision(self, model: Any, fit: Fit) -> None:
        """Keep the weights that transformers keeps in float32 when the others are loaded in half precision.

        Raises:
            CheckpointError: if one shares a store with others.
        """
        kept = model._get_dtype_plan(model.dtype)
        where = next(f"{path}." if path else "" for path, module in model.named_modules() if module is fit.root)
        assert fit.checkpoint.plan is not None
        for group in fit.checkpoint.plan.groups:
            dtypes = {weight.name: _dtype_in(kept, where + weight.name) for weight in group.weights if weight.names}
            if len(set(dtypes.values())) > 1:
                name = next(name for name, dtype in dtypes.items() if dtype is not None)
                other = next(name for name, dtype in dtypes.items() if dtype is None)
                raise CheckpointError(
                    f"{name} stays in {dtypes[name]} when a {type(model).__name__} is loaded in {model.dtype}, and is "
                    f"generated from the store of {other}, which does not. Load it in another dtype, such as "
                    "dtype=torch.bfloat16, or give such weights a group of their own by mapping= when you compress"
                )
            dtype = next(iter(dtypes.values()))
            for weight in group.weights if dtype is not None else ():
                for number, name in enumerate(weight.names):
                    if number == 0:
                        path, _, attribute = name.rpartition(".")
                        module = fit.root.get_submodule(path)
                        module._parameters[attribute] = nn.Parameter(module.get_parameter(attribute).to(dtype))
                    else:
                        _tie(fit.root, weight.name, name)

    def postprocess_model(self, model: Any, **kwargs: Any) -> None:
        """Remove the quantizer from the model, and set what a checkpoint of transformers does not hold."""
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        del model.is_quantized
        model.all_tied_weights_keys = self.ties
        vars(model).pop("_adjust_missing_and_unexpected_keys", None)
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
            if name in self.frozen:
                parameter.requires_grad_(False)

    def is_serializable(self) -> bool:
        """Say that a loaded model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that a loaded model can be trained."""
        return True


def _stored_names(files: Sequence[str]) -> set[str]:
    """Return the names of the tensors in safetensors files."""
    names: set[str] = set()
    for file in files:
        if file.endswith(".safetensors"):
            with safe_open(file, framework="pt") as content:
                names.update(content.keys())
    return names


def _dtype_in(kept: Mapping[str, torch.dtype], name: str) -> torch.dtype | None:
    """Return the dtype that transformers keeps a parameter in, by patterns of names; None for that of the model."""
    return next((dtype for pattern, dtype in kept.items() if re.search(pattern.replace("*", ".*"), name)), None)


def _tie(module: nn.Module, source: str, target: str) -> None:
    """Make two names of a module refer to one parameter, if it has parameters of both names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if source in parameters and target in parameters:
        path, _, name = target.rpartition(".")
        module.get_submodule(path)._parameters[name] = parameters[source]
