"""Build models of transformers by their type, or from a configuration on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from shapeshift.errors import ModelError


def model_names() -> list[str]:
    """Return the model types of transformers, such as "bert"."""
    return list(MODEL_MAPPING_NAMES)


def build(name: str) -> nn.Module:
    """Build a model type on the meta device, in its default configuration."""
    return _build(transformers.AutoConfig.for_model(name), name)


def build_from_file(path: Path) -> nn.Module:
    """Build a model on the meta device from its configuration.

    Args:
        path: A JSON file, or a folder with a ``config.json``.

    Raises:
        ModelError: if the file is missing, is not JSON, or names a model type that transformers does not know.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as the configuration of a transformers model: {error}") from None
    kind = fields.pop("model_type", None) if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise ModelError(f"{file} has the model_type {kind!r}, which transformers {transformers.__version__} lacks")
    return _build(transformers.AutoConfig.for_model(kind, **fields), str(file))


def _build(config: Any, source: str) -> nn.Module:
    """Build the class that the configuration names, or the class without a head if it names none."""
    classes = [getattr(transformers, name, None) for name in config.architectures or ()]
    known = next((found for found in classes if found is not None), None)
    try:
        with torch.device("meta"):
            model: nn.Module = known(config) if known is not None else transformers.AutoModel.from_config(config)
    except Exception as error:
        # Some types have no usable defaults, and can fail with any exception.
        what = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__
        raise ModelError(f"transformers cannot build a model from the configuration of {source} ({what})") from error
    return model
