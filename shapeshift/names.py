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
    """A table of the implementations of one kind, by name.

    Args:
        kind: The kind as error messages call it ("mapping", "upsampler").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its target as ``name``.

        Raises:
            ConfigError: if the name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(f"{self.kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str) or name not in self._entries:
            hint = did_you_mean(str(name), list(self))
            raise ConfigError(f"unknown {self.kind} {name!r}; choose one of: {', '.join(self)}{hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


def match_names(
    pattern: str, names: Sequence[str], field: str, what: str = "parameter or module of the model"
) -> set[str]:
    """Find the parameters that a name of a parameter or module, or a shell pattern over either, matches.

    Args:
        pattern: The name or pattern. It is read as a pattern if nothing has that name.
        names: The dotted paths of all parameters that it can match.
        field: The option that it was given for, named in the error.
        what: The things that it can match, named in the error.

    Raises:
        ConfigError: if nothing matches; the error lists similar names.
    """
    prefixes = {name: set(_prefixes(name)) for name in names}
    found = {name for name in names if pattern in prefixes[name]}
    if not found:
        found = {name for name in names if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes[name])}
    if not found:
        hint = did_you_mean(pattern, sorted(set().union(*prefixes.values())))
        raise ConfigError(f"{field}: {pattern!r} matches no {what}{hint}")
    return found


def covering_names(inside: Sequence[str], outside: Sequence[str]) -> list[str]:
    """Return the shortest dotted paths that hold all names of one list and none of the other, in the first's order."""
    taken = {prefix for name in outside for prefix in _prefixes(name)}
    return list(dict.fromkeys(next((p for p in _prefixes(name) if p not in taken), name) for name in inside))


def _prefixes(name: str) -> Iterator[str]:
    """Yield the dotted paths that a name starts with, from the shortest to itself."""
    return itertools.accumulate(name.split("."), "{}.{}".format)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a hint for an error about an unknown name, with similar names; empty if there are none."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
