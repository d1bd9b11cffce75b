"""What a user's name or pattern stands for."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Sequence

from shapeshift.errors import ConfigError


def match_names(
    pattern: str, names: Sequence[str], field: str, what: str = "parameter or module of the model"
) -> set[str]:
    """Find the parameters that a parameter name, a module name or a shell pattern over either stands for.

    Args:
        pattern: what the user wrote; it is a pattern if nothing has that name.
        names: the dotted paths of all parameters that it may stand for.
        field: where it was written, for the error.
        what: what it may stand for, for the error.

    Raises:
        ConfigError: if there is none; it names what comes close.
    """
    prefixes = {name: set(itertools.accumulate(name.split("."), "{}.{}".format)) for name in names}
    found = {name for name in names if pattern in prefixes[name]}
    if not found:
        found = {name for name in names if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes[name])}
    if not found:
        hint = did_you_mean(pattern, sorted(set().union(*prefixes.values())))
        raise ConfigError(f"{field}: {pattern!r} matches no {what}{hint}")
    return found


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of an error about an unknown name, with what comes close; empty where nothing does."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
