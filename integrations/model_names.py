"""Find a model of timm or transformers by its name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

from torch import nn

from shapeshift.errors import MissingExtraError, ModelError

SOURCES = ("timm", "transformers")


def build_on_meta(name: str) -> nn.Module:
    """Build a model on the meta device, where its weights take no memory.

    Args:
        name: A name of timm ("resnet50"), a model type of transformers ("bert"), or a JSON file or a folder with the
            configuration of a transformers model. The prefix "timm:" or "transformers:" before a name chooses the
            library.

    Returns:
        The model, on the meta device.

    Raises:
        ModelError: if no model has that name, or models of both libraries have it. The error lists similar names.
        MissingExtraError: if the library of the model is not installed.
    """
    source, _, rest = name.partition(":")
    if source in SOURCES and rest:
        return _build_from(source, rest)
    if os.sep in name or name.endswith(".json") or Path(name).is_dir():
        return _load("transformers").build_from_file(Path(name))  # type: ignore[no-any-return]

    libraries = {source: _load(source) for source in SOURCES if importlib.util.find_spec(source)}
    if not libraries:
        raise MissingExtraError("finding a model by name", ",".join(SOURCES))
    found = [source for source, library in libraries.items() if name in library.model_names()]
    if len(found) > 1:
        choices = " or ".join(f"{source}:{name}" for source in found)
        raise ModelError(f"{name!r} is the name of several models; say {choices}")
    if not found:
        known = [known for library in libraries.values() for known in library.model_names()]
        absent = [source for source in SOURCES if source not in libraries]
        hint = f' ({absent[0]} is not installed: pip install "shapeshift[{absent[0]}]")' if absent else ""
        raise ModelError(_unknown(name, " or ".join(libraries), known) + hint)
    return libraries[found[0]].build(name)  # type: ignore[no-any-return]


def _build_from(source: str, name: str) -> nn.Module:
    library = _load(source)
    names = library.model_names()
    if name not in names:
        raise ModelError(_unknown(name, source, names))
    return library.build(name)  # type: ignore[no-any-return]


def _unknown(name: str, where: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"no model of {where} is called {name!r}{hint}"


def _load(source: str) -> ModuleType:
    if importlib.util.find_spec(source) is None:
        raise MissingExtraError(f"a model of {source}", source)
    return importlib.import_module(f"shapeshift.integrations.{source}")
