"""What commands print: JSON for programs, tables for people, and progress on the standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

ItemT = TypeVar("ItemT")


def show(table: Any, content: dict[str, Any], as_json: bool, title: str = "") -> None:
    """Print JSON, or a table under a title. In a terminal a table has colours and the terminal's width."""
    if as_json:
        print(json.dumps(content, indent=2))
        return
    if title:
        print(title)
    if sys.stdout.isatty():
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            Console().print(table)
            return
    print(table)


def is_shown(as_json: bool) -> bool:
    """Return whether progress is shown: in a terminal, where no program reads along."""
    return sys.stderr.isatty() and not as_json


def progressing(items: Iterable[ItemT], what: str, as_json: bool) -> Iterable[ItemT]:
    """Iterate over items with a progress bar, where one is shown and tqdm is installed."""
    if is_shown(as_json):
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return items
        return tqdm(items, desc=what)  # type: ignore[no-any-return]
    return items
