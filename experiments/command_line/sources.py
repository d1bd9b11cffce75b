"""Models on disk: folders of transformers, and models of timm with a file of weights."""

from __future__ import annotations

import abc
import contextlib
import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from shapeshift.errors import MissingExtraError, ModelError, ShapeshiftError

if TYPE_CHECKING:
    from PIL.Image import Image

PLAN_FILE = "shapeshift.json"


class Source(abc.ABC):
    """A model that was opened.

    Attributes:
        model: the model, compressed or plain, in evaluation mode.
        files: the files that hold its parameters and its plan.
    """

    model: nn.Module
    files: list[Path]

    @abc.abstractmethod
    def write(self, folder: Path, packed: bool = False) -> None:
        """Write the model as it is now, compressed or plain, with all that opening it again needs.

        Args:
            folder: The folder to write to.
            packed: Whether a compressed model has to be written by :func:`shapeshift.save`, which rounds its stores.
        """

    @abc.abstractmethod
    def transform(self) -> Callable[[Image], Tensor]:
        """Return the function that makes the model's input, without a batch, of an image."""

    def tokenizer(self) -> Any:
        """Return the tokenizer.

        Raises:
            ModelError: if the model reads no texts, or its folder has no tokenizer.
        """
        raise ModelError(f"a {type(self.model).__name__} reads images: give a folder of images in place of a text file")

    @property
    def num_bytes(self) -> int:
        """The size of the files."""
        return sum(file.stat().st_size for file in self.files)


def open_model(
    name: str, weights: str | None = None, model_args: Sequence[str] = (), trust_remote_code: bool = False
) -> Source:
    """Open a model on disk. Its weights are mapped into memory, and read where they are used.

    Args:
        name: A folder that transformers, timm or this command line wrote, or a model name of timm.
        weights: The safetensors file of a model of timm, where ``name`` is its name.
        model_args: Arguments of ``timm.create_model`` for it, as "key=value".
        trust_remote_code: Whether a folder of transformers may run its own code.

    Raises:
        ModelError: if there is no such model, or its weights do not fit it.
        CheckpointError: if a compressed model is damaged.
        MissingExtraError: if its library is not installed.
    """
    folder = Path(name)
    with _one_error(name):
        if weights is not None:
            return _library("timm", "timm_models").open_weights(name, Path(weights), model_args)  # type: ignore[no-any-return]
        if not folder.is_dir():
            raise ModelError(
                f"{name} is no folder: give the folder of a model, or a name of timm with --weights FILE.safetensors"
            )
        config = folder / "config.json"
        if not config.is_file():
            raise ModelError(f"{config} does not exist: give the folder of a model of transformers or timm")
        if "architecture" in json.loads(config.read_text(encoding="utf-8")):
            return _library("timm", "timm_models").open_folder(folder)  # type: ignore[no-any-return]
        return _library("transformers", "transformers_models").open_folder(folder, trust_remote_code)  # type: ignore[no-any-return]


def check_output(output: str) -> Path:
    """Return the folder of an output, which has to be new or empty.

    Raises:
        ModelError: if it is not.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{output} exists and is not an empty folder: remove it, or give --output another name")
    return folder


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn the errors of a full disk or a folder without access into one of this library."""
    try:
        yield
    except OSError as error:
        raise ShapeshiftError(f"{place} cannot be written: {error}") from error


@contextlib.contextmanager
def _one_error(name: str) -> Iterator[None]:
    """Turn the errors of other libraries, whatever their types, into one line of this library."""
    try:
        yield
    except ShapeshiftError:
        raise
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(f"{name} cannot be opened: {type(error).__name__}: {first}") from error


def _library(extra: str, module: str) -> Any:
    if importlib.util.find_spec(extra) is None:
        raise MissingExtraError(f"a model of {extra}", extra)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return importlib.import_module(f"shapeshift.experiments.command_line.{module}")
