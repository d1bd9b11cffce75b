"""The page of compatibility, made from the outcomes of all checks."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.machine import made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
FILE = RESULTS / "compatibility.json"

INTRODUCTION = """\
# What works with a compressed model

Each row is a check that runs: an operation on a compressed model, compared with the same operation on the plain model
of the same weights. A row either *works*, with the plain model's results, or *says what to do*: there is an error or a
warning with the way out, which the last column quotes. It is the library's own, but in two rows, where torch raises the
error. The tests run every check, and fail if a row is neither, or another one than this page says.
"""

#: The libraries whose versions the page names, beside torch.
CLIENTS = ("timm", "transformers", "peft", "lightning")


def page(content: dict[str, Any]) -> str:
    """Return the page, as Markdown."""
    versions = content["machine"]["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("timm", "transformers", "peft", "lightning") if name in versions
    )
    caption = f"{made_by('compatibility', content['machine'])}, {named}, on {content['date']}."
    parts = [INTRODUCTION, caption]
    for group, rows in itertools.groupby(content["checks"], key=lambda row: row["group"]):
        cells = [[row["name"], "works" if row["works"] else "says what to do", _short(row["message"])] for row in rows]
        parts += [f"## {group[0].upper()}{group[1:]}", markdown_table(["operation", "compressed", "message"], cells)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_page() -> None:
    """Make the page anew from the committed outcomes."""
    PAGE.write_text(page(json.loads(FILE.read_text(encoding="utf-8"))), encoding="utf-8")


def _short(message: str) -> str:
    """Return a message in one cell of a table."""
    return re.sub(r"\s+", " ", message.replace("|", "/")).strip()
