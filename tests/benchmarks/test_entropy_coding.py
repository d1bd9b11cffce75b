"""What entropy coding saves: one short run, and the table."""

from __future__ import annotations

import pytest

from benchmarks import entropy_coding
from benchmarks.entropy_coding import measure, render
from benchmarks.machine import describe


def test_the_table_has_the_bytes_of_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_coding, "bits_per_byte", lambda model: 4.5)
    found = measure("bfloat16", steps=10)
    assert 0.6 * found["plain"] < found["coded"] < 0.75 * found["plain"] < 187_500
    table = render({"machine": describe("cpu"), "steps": 10, "results": {"bfloat16": found}})
    assert f"| {found['plain']:,} | {found['coded']:,} | {100 * (1 - found['coded'] / found['plain']):.1f}%" in table
