"""The JSON file of a checkpoint: the description of its model, without what can be derived, and deflated."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from shapeshift.config import Config

# The only key of a dict that stands for a list of dicts with the same keys. No name is empty.
_COLUMNS = ""

# Deviations of starting values keep this many digits.
_DIGITS = 6

# A description inflates to this many times its text at most, beyond the first megabyte, so that a damaged file cannot
# ask for memory. Those of large models are 8 times their text.
_LARGEST_RATIO = 200


def deflated(description: Mapping[str, Any]) -> str:
    """Return a description, a dict that JSON can hold, as a short text."""
    text = json.dumps(_in_columns(_without_defaults(description)), separators=(",", ":"))
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def inflated(text: str) -> dict[str, Any]:
    """Return the description of :func:`deflated`.

    Raises:
        TypeError, ValueError: if the text does not come from there.
    """
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(base64.b85decode(text), 2**20 + _LARGEST_RATIO * len(text))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof:
        raise ValueError("it is cut off, or too large")
    description = _in_rows(json.loads(content))
    if not isinstance(description, dict):
        raise TypeError(f"a description is a dict, not {type(description).__name__}")
    return description


def _without_defaults(description: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options that have their defaults, and the digits that starting values have no use for."""
    plan = description.get("plan")
    if plan is None:
        return dict(description)
    defaults = Config().to_dict()
    config = {name: value for name, value in plan["config"].items() if value != defaults[name]}
    groups = [
        {**group, "weights": [{**weight, "std": float(f"{weight['std']:.{_DIGITS}g}")} for weight in group["weights"]]}
        for group in plan["groups"]
    ]
    return {**description, "plan": {**plan, "config": config, "groups": groups}}


def _in_columns(value: Any) -> Any:
    """Write lists of dicts with the same keys as one dict of lists, so that each key occurs once."""
    if isinstance(value, Mapping):
        return {key: _in_columns(found) for key, found in value.items()}
    if not isinstance(value, list | tuple):
        return value
    rows = [_in_columns(found) for found in value]
    if not rows or not all(isinstance(row, dict) and row and row.keys() == rows[0].keys() for row in rows):
        return rows
    return {_COLUMNS: {key: [row[key] for row in rows] for key in rows[0]}}


def _in_rows(value: Any) -> Any:
    """Take back what :func:`_in_columns` wrote."""
    if isinstance(value, list):
        return [_in_rows(found) for found in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_COLUMNS}:
        columns = {key: _in_rows(found) for key, found in value[_COLUMNS].items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {key: _in_rows(found) for key, found in value.items()}
