"""Folders of transformers on disk, compressed or plain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging

import shapeshift
import shapeshift.integrations.transformers
from shapeshift.errors import ModelError
from shapeshift.experiments.command_line.printing import is_shown
from shapeshift.experiments.command_line.sources import PLAN_FILE, Source

if TYPE_CHECKING:
    from PIL.Image import Image

# Read by transformers as the name of the weights' file, which it shows when it refuses it.
_GUARD = "this model is compressed: build the plain one, and call shapeshift.load(folder, model)"
# What save_pretrained of a tokenizer or an image processor writes, and code beside the model.
_KEPT = (".json", ".txt", ".model", ".jinja", ".py")


class TransformersSource(Source):
    """A folder of transformers.

    Args:
        model: The model.
        folder: The folder.
        trust: Whether its own code may run.
    """

    def __init__(self, model: nn.Module, folder: Path, trust: bool) -> None:
        self.model, self.folder, self.trust = model.eval(), folder, trust
        plan = "config.json" if shapeshift.is_compressed(model) and not (folder / PLAN_FILE).exists() else PLAN_FILE
        self.files = [*sorted(folder.glob("*.safetensors")), *folder.glob(plan)]

    def write(self, folder: Path, packed: bool = False) -> None:
        model: Any = self.model
        if packed and shapeshift.is_compressed(model):
            shapeshift.save(model, folder)
            fields = {**model.config.to_dict(), "transformers_weights": _GUARD}
            (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        else:
            model.save_pretrained(folder)
        for file in sorted(self.folder.iterdir()):
            is_index = file.name.endswith(".index.json")
            if file.suffix in _KEPT and not is_index and file.name != PLAN_FILE and not (folder / file.name).exists():
                shutil.copy(file, folder)

    def transform(self) -> Callable[[Image], Tensor]:
        processor = transformers.AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=self.trust)

        def pixels(image: Image) -> Tensor:
            found: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
            return found

        return pixels

    def tokenizer(self) -> Any:
        try:
            return transformers.AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.trust)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{self.folder} has no tokenizer that can be read ({type(error).__name__}): call "
                "tokenizer.save_pretrained(folder) with the model's own"
            ) from error


def open_folder(folder: Path, trust: bool) -> TransformersSource:
    """Open a folder of transformers.

    Raises:
        CheckpointError: if a compressed model is damaged.
        ModelError: if the weights are not the model's own, or its code is not in transformers and ``trust`` is false.
    """
    if not is_shown(as_json=False):
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in fields and not trust and fields.get("model_type") not in transformers.CONFIG_MAPPING:
        raise ModelError(
            f"{folder} brings code of its own for a {fields.get('model_type')}, which transformers lacks: read it, and "
            "add --trust-remote-code to run it"
        )
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    if (folder / PLAN_FILE).exists():
        vars(config).pop("transformers_weights", None)
        with torch.device("meta"):
            model = _model_class(config)._from_config(config)
        return TransformersSource(shapeshift.load(folder, model), folder, trust)
    model, info = _model_class(config).from_pretrained(folder, trust_remote_code=trust, output_loading_info=True)
    _check(folder, type(model).__name__, info)
    return TransformersSource(model, folder, trust)


def _model_class(config: Any) -> Any:
    """Return the class that a folder was saved from, or the one with the code of the folder."""
    name = next(iter(config.architectures or ()), "")
    if found := getattr(transformers, name, None):
        return found
    remote: Mapping[str, str] = getattr(config, "auto_map", None) or {}
    autos = [auto for auto, place in remote.items() if auto != "AutoConfig" and place.rpartition(".")[2] == name]
    return getattr(transformers, autos[0]) if autos else transformers.AutoModel


def _check(folder: Path, kind: str, info: Mapping[str, Any]) -> None:
    """Raise if transformers drew weights at random that the folder lacks."""
    for key, what in (("missing_keys", "lacks"), ("mismatched_keys", "has in another shape")):
        names = sorted(map(str, info[key]))
        if names:
            raise ModelError(f"the weights in {folder} {what} {names[0]} of {kind} ({len(names)} in all)")
