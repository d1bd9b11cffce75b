"""Each operation of the page of compatibility works on a compressed model, or says what to do, as the page says."""

from __future__ import annotations

import json

import pytest

from benchmarks.compatibility import __main__ as compatibility
from benchmarks.compatibility.check import CHECKS, PlainFailsError, run
from benchmarks.compatibility.report import FILE, PAGE, page

ROWS = {(row["group"], row["name"]): row for row in json.loads(FILE.read_text(encoding="utf-8"))["checks"]}


@pytest.mark.parametrize(("group", "name"), list(CHECKS), ids=map(" ".join, CHECKS))
def test_an_operation_is_as_the_page_says(group: str, name: str) -> None:
    try:
        outcome = run(group, name)
    except PlainFailsError:
        assert (group, name) not in ROWS
    else:
        assert outcome.works == ROWS[group, name]["works"], outcome.message
        assert outcome.works or len(outcome.message) > 20


def test_the_page_is_made_from_the_committed_outcomes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(FILE.read_text(encoding="utf-8")))
    assert set(ROWS) <= set(CHECKS)
    assert compatibility.GROUPS
