"""Options that several commands have; those of a compression are made of the fields of ``Config``."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterable
from typing import Any

import shapeshift
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS
from shapeshift.upsamplers import UPSAMPLERS

_REGISTRIES: dict[str, Iterable[str]] = {"mapping": MAPPINGS, "combine": GENERATORS, "upsample": UPSAMPLERS}


def add_config(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Add an option for each field of ``Config``.

    Args:
        parser: The parser of a command.
        **defaults: Defaults of this command that are not those of ``Config``.
    """
    group = parser.add_argument_group("how weights share (the fields of shapeshift.Config)")
    hints, described = typing.get_type_hints(shapeshift.Config), _descriptions()
    for field in dataclasses.fields(shapeshift.Config):
        default = defaults.get(field.name, field.default)
        shown = " ".join(default) if isinstance(default, tuple) else default
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=default,
            help=f"{described[field.name]} (default: {'none' if shown in (None, '') else shown})".replace("%", "%%"),
            **_reading(field.name, hints[field.name]),
        )


def chosen_config(arguments: argparse.Namespace) -> shapeshift.Config:
    """Return the config that the options of :func:`add_config` were given.

    Raises:
        ConfigError: if a value is not valid.
    """
    return shapeshift.Config(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(shapeshift.Config)}
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the option of a budget."""
    parser.add_argument(
        "--budget",
        required=True,
        help="the largest number of trainable parameters: a number (300000, 300k, 1.5M) or a share of "
        "the model's own (0.25, 25%%, 4x); or the largest checkpoint, in bytes (500kB, 16MB, 1MiB)",
    )


def add_model(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """Add the place of a model on disk, and the options that opening it takes."""
    parser.add_argument(
        name,
        metavar="MODEL",
        help=f"{what}: a folder of transformers, a folder that this command wrote, or a timm name with --weights",
    )
    parser.add_argument("--weights", metavar="FILE", help="the safetensors file of a model that MODEL names")
    parser.add_argument(
        "--model-args",
        nargs="+",
        metavar="KEY=VALUE",
        default=(),
        help="arguments of timm.create_model with --weights, such as num_classes=10",
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a folder of transformers run its own code."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the Python files of a folder of transformers (default: off)",
    )


def add_data(parser: argparse.ArgumentParser, name: str, what: str, samples: int | None, required: bool) -> None:
    """Add the place of texts or images, and the options of reading them."""
    parser.add_argument(name, metavar="DATA", required=required, help=f"{what}: a text file, or a folder of images")
    parser.add_argument("--length", type=int, default=512, metavar="N", help="tokens of a text sample (default: 512)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="samples of a batch (default: 8)")
    parser.add_argument(
        "--samples",
        type=int,
        default=samples,
        metavar="N",
        help=f"the most samples that are read (default: {'all' if samples is None else samples})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option of JSON for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table, and no progress")


def _reading(name: str, hint: Any) -> dict[str, Any]:
    """Return how argparse reads a field of a type."""
    if name in _REGISTRIES:
        return {"choices": list(_REGISTRIES[name])}
    kinds: Collection[Any] = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in kinds:
        return {"action": argparse.BooleanOptionalAction}
    if int in kinds:
        return {"type": int, "metavar": "N"}
    if typing.get_origin(hint) is tuple:
        return {"nargs": "+", "metavar": "PATTERN"}
    return {"metavar": name.upper()}


def _descriptions() -> dict[str, str]:
    """Return the help of each field, from the docstring of ``Config``, without its markup."""
    text = inspect.getdoc(shapeshift.Config) or ""
    fields = text.partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", fields, re.DOTALL | re.MULTILINE)
    plain = {name: re.sub(r":\w+:`([^`]*)`", r"\1", " ".join(words.split())) for name, words in found}
    return {name: words.replace("``", "").rstrip(".") for name, words in plain.items()}
