"""What a user may write: names in registries, and names or patterns of parameters and modules."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from shapeshift.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from a name to one implementation of a kind.

    Args:
        kind: what the entries are, as error messages call it ("mapping", "upsampler").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its target under ``name``; a name can be taken once."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(f"{self.kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str) or name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}; choose one of: {', '.join(self)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


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
