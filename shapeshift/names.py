"""What a user's name or pattern stands for."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from shapeshift.errors import ConfigError


def match_names(pattern: str, names: Sequence[str], field: str) -> set[str]:
    """Find the parameters that a parameter name, a module name or a shell pattern over either stands for.

    Args:
        pattern: what the user wrote.
        names: the dotted paths of all parameters.
        field: where it was written, for the error.

    Raises:
        ConfigError: if there is none; it names what comes close.
    """
    found, paths = set(), set()
    for name in names:
        parts = name.split(".")
        prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        if any(prefix == pattern or fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes):
            found.add(name)
        paths |= prefixes
    if not found:
        hint = did_you_mean(pattern, sorted(paths))
        raise ConfigError(f"{field}: {pattern!r} matches no parameter or module of the model{hint}")
    return found


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of an error about an unknown name, with what comes close; empty where nothing does."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
