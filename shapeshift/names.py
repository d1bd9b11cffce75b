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
        close = difflib.get_close_matches(pattern, sorted(paths), n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"{field}: {pattern!r} matches no parameter or module of the model{hint}")
    return found
