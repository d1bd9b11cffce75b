"""The page of coverage, made from the JSON files of the sweeps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.coverage.check import BUDGET
from benchmarks.coverage.sweep import LIBRARIES
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS

PAGE = Path(__file__).parent.parent.parent / "docs" / "coverage.md"
MOST_NAMED = 12  # models that share a reason

INTRODUCTION = f"""\
# Coverage

Which models of timm and transformers can be compressed. Each is built with random weights and taken through

1. *compress*: to {BUDGET} of its parameters, or to the least that its config allows where that is more;
2. *forward*: in evaluation mode, with finite outputs of the shapes of the dense model's;
3. *backward*: in training mode, with finite gradients, and one for each store that makes a weight which had one when
   dense;
4. *materialize*: with the very outputs of the compressed model, and classes and state dict as they were.

From timm come all models of up to 100 million parameters, on images of 64 pixels where the model takes them. From
transformers come all classes behind the auto classes for causal and masked language models, sequence to sequence,
question answering and image classification. Their default configurations are made smaller by rules on the names of
fields: an eighth of the width, four layers and 512 tokens, or more where a model does not run with that. Multimodal
models are given text only.

A model that does not run before it is compressed is not counted, and listed below with the reason. Each model has a
process, and a limit on time and memory, of its own.
"""


def write_page(folder: Path = RESULTS) -> None:
    """Make the page anew from the JSON files in a folder."""
    PAGE.write_text(page(folder), encoding="utf-8")


def page(folder: Path = RESULTS) -> str:
    """Return the page, as Markdown."""
    paths = [result_file(library, folder) for library in LIBRARIES]
    sweeps = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    parts = [INTRODUCTION, _totals(sweeps)]
    for found in sweeps:
        parts += [f"## {found['library']}", _caption(found), _failures(found["models"]), _not_run(found["models"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def result_file(library: str, folder: Path = RESULTS) -> Path:
    """Return the JSON file of a library's sweep."""
    return folder / f"coverage_{library}.json"


def _totals(sweeps: list[dict[str, Any]]) -> str:
    rows = []
    for found in sweeps:
        outcomes = [result["outcome"] for result in found["models"].values()]
        passed, failed = outcomes.count("passed"), outcomes.count("failed")
        share = f"{passed / max(1, passed + failed):.1%}"
        name = f"{found['library']} {found['machine']['versions'][found['library']]}"
        tried = f"{len(outcomes):,} of {found.get('names', len(outcomes)):,}"
        rows.append([name, tried, f"{passed + failed:,}", f"{passed:,}", share, f"{failed:,}"])
    return markdown_table(["library", "tried so far", "run", "pass", "share", "fail"], rows)


def _caption(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    hours = sum(result["seconds"] for result in found["models"].values()) / 3600
    return (
        f"Made by `python -m benchmarks.coverage --libraries {found['library']}` in {hours:.1f} hours of one thread on "
        f"{machine['processor']}, torch {machine['versions']['torch']}."
    )


def _failures(models: Mapping[str, Any]) -> str:
    failed = {name: result for name, result in models.items() if result["outcome"] == "failed"}
    if not failed:
        return "No model fails."
    rows = [[f"`{name}`", result["stage"], _code(result["reason"])] for name, result in failed.items()]
    return markdown_table(["model", "fails to", "reason"], rows)


def _not_run(models: Mapping[str, Any]) -> str:
    names: dict[str, list[str]] = {}
    for name, result in models.items():
        if result["outcome"] == "not run":
            names.setdefault(result["reason"], []).append(name)
    if not names:
        return "All others pass."
    rows = [
        [_code(reason), f"{len(found):,}", _some(found)]
        for reason, found in sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    table = markdown_table(["does not run here", "models", "names"], rows)
    return f"Not counted:\n\n{table}"


def _some(names: list[str]) -> str:
    """List the first few of many names; the JSON file has all of them."""
    named = ", ".join(f"`{name}`" for name in names[:MOST_NAMED])
    return named + (f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else "")


def _code(text: str) -> str:
    """Return a text as code in a cell of a table."""
    return "`` " + re.sub(r"\s+", " ", text.replace("|", "/")).strip() + " ``"
