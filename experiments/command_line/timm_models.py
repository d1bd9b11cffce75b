"""Models of timm on disk: a name with a safetensors file, or a folder with timm's ``config.json``."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import timm.data
import torch
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

import shapeshift
import shapeshift.integrations.timm
from shapeshift.errors import ConfigError, ModelError
from shapeshift.experiments.command_line.sources import PLAN_FILE, Source
from shapeshift.running.remaking import Remaking

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS_FILE = "model.safetensors"


class TimmSource(Source):
    """A model of timm.

    Args:
        model: The model.
        files: Its files.
        model_args: The arguments that timm makes it with.
    """

    def __init__(self, model: nn.Module, files: Sequence[Path], model_args: Mapping[str, Any]) -> None:
        self.model, self.files, self.model_args = model.eval(), list(files), dict(model_args)

    def write(self, folder: Path, packed: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if shapeshift.is_compressed(self.model):
            shapeshift.save(self.model, folder)
        else:
            save_file(
                {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / WEIGHTS_FILE
            )
        save_config_for_hf(self.model, str(folder / "config.json"), model_args=self.model_args)

    def transform(self) -> Callable[[Image], Tensor]:
        data: Any = timm.data  # it has no types
        transform: Callable[[Image], Tensor] = data.create_transform(
            **data.resolve_model_data_config(self.model), is_training=False
        )
        return transform


def open_weights(name: str, weights: Path, model_args: Sequence[str]) -> TimmSource:
    """Build a model by its name, and give it the weights of a safetensors file.

    Raises:
        ConfigError: if an argument is not "key=value".
        ModelError: if timm has no such model, or the weights are not its own.
    """
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}; timm.list_models() lists them")
    arguments = dict(map(_argument, model_args))
    return TimmSource(_with_weights(lambda: timm.create_model(name, **arguments), weights), [weights], arguments)


def open_folder(folder: Path) -> TimmSource:
    """Open a folder with timm's ``config.json``, compressed or plain.

    Raises:
        CheckpointError: if a compressed model is damaged.
        ModelError: if the weights of a plain one are not its own.
    """
    arguments = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_args", {})

    def build() -> nn.Module:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", **arguments)
        return model

    if not (folder / PLAN_FILE).exists():
        return TimmSource(_with_weights(build, folder / WEIGHTS_FILE), [folder / WEIGHTS_FILE], arguments)
    with torch.device("meta"):
        model = build()
    return TimmSource(shapeshift.load(folder, model), [folder / WEIGHTS_FILE, folder / PLAN_FILE], arguments)


def _with_weights(build: Callable[[], nn.Module], weights: Path) -> nn.Module:
    """Build a model with the tensors of a file, which are mapped into memory.

    Where memory is short, the values that the model starts with are dropped before the file takes their place.
    """
    tensors = load_file(weights)
    with Remaking() as remaking:
        with remaking.recording():
            model = build()
        own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for name, shape in own.items():
            if name not in tensors:
                raise ModelError(f"{weights} lacks {name} {shape}: it holds the weights of another model")
            if tuple(tensors[name].shape) != shape:
                raise ModelError(
                    f"{weights} has {name} of shape {tuple(tensors[name].shape)}, and the model of shape {shape}: give "
                    "--model-args num_classes=N, say, where the model was made with other arguments"
                )
        for name in tensors.keys() - own.keys():
            raise ModelError(f"{weights} has {name}, which the model lacks: it holds the weights of another model")
        model.load_state_dict(tensors, assign=True)
    return model


def _argument(text: str) -> tuple[str, Any]:
    """Read "key=value", where the value is Python or a text."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--model-args: {text!r} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value
