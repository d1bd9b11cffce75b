"""Tables as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBERS = re.compile(r"(nan|inf|\d[\d.,]*(e[-+]?\d+)?|[-+ ±%.])*")


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out cells in columns that are two spaces apart.

    Args:
        header: The name of each column.
        rows: The cells of each row, one per column. A column is aligned to the right where all its cells are numbers
            (such as "1,234", "5.2%", "0.1 ± 0.02", "2-4" or ""), and to the left otherwise.

    Returns:
        The lines, without spaces at their ends, joined by line breaks.
    """
    lines = [header, *rows]
    columns = []
    for name, *cells in zip(*lines, strict=True):
        width = max(map(len, (name, *cells)))
        align = str.rjust if all(map(_NUMBERS.fullmatch, cells)) else str.ljust
        columns.append([align(cell, width) for cell in (name, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))
