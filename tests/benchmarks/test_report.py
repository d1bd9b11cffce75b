"""The report: tables, verdicts, pictures, and the page of results."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.claims import Claim
from benchmarks.experiments.base import Metric
from benchmarks.experiments.classification import ERROR, ImageClassification
from benchmarks.experiments.networks import WideNetwork, compressed
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS
from benchmarks.row import Row
from benchmarks.runs import Run, RunStore
from benchmarks.table import pairs
from benchmarks.table_runs import TableRuns
from benchmarks.tables import TABLES
from tests.benchmarks.tiny import ROWS, SIZES, TABLE, TASK, found

COMMITTED = RunStore(RESULTS / "runs")
REPORTED = [each for table in TABLES.values() for each in report.reported(table, COMMITTED)]


def test_verdicts_stand_under_the_table_with_their_numbers(tmp_path: Path) -> None:
    small, large = (tuple(replace(row, network=WideNetwork(depth, 1)) for row in ROWS) for depth in (10, 16))
    rows = small + large
    table = replace(TABLE, rows=rows, claims=(Claim("Less is more", pairs(rows, "compressed", "dense")),))
    errors = {"WRN-10-1/compressed/50%": [1.0, 3.0], "WRN-10-1/dense/": [7.0, 9.0], "WRN-16-1/dense/": [2.0, 4.0]}
    text = report.render(found(errors, tmp_path, table))
    spread = f"{statistics.stdev([1.0, 3.0]):.2f}"
    assert text.endswith(
        "Not run yet: 1 of 4 rows.\n\nExpected, and found:\n\n* Less is more:\n"
        f"  * **reproduced**: WRN-10-1 (2.00 ± {spread} against 8.00 ± {spread})\n"
    )
    assert f"| WRN-16-1 | dense      |        | 1,234      | 3.00 ± {spread}   | 2     |" in text
    assert text.startswith("Made by `python -m benchmarks run tiny --data digits --device cpu`: 1,200 training ")
    assert ", on a machine.\n" in text


def test_a_pair_is_named_by_what_tells_it_apart(tmp_path: Path) -> None:
    networks = [WideNetwork(depth, 1) for depth in (10, 16, 22)]
    rows = tuple(Row(network, "compressed", "25k", compressed) for network in networks)
    deeper = Claim("Deeper is better", ((rows[1].key, rows[0].key), (rows[2].key, rows[1].key)))
    table = replace(TABLE, rows=rows, claims=(deeper,))
    text = report.render(found({row.key: [1.0, 1.0] for row in rows}, tmp_path, table))
    assert "WRN-16-1 after WRN-10-1 (1.00 ± 0.00 against 1.00 ± 0.00); WRN-22-1 after WRN-16-1 (" in text


def test_a_metric_may_be_better_when_it_is_higher(tmp_path: Path) -> None:
    recall = Metric("recall", "recall, %", higher_is_better=True)
    table = replace(TABLE, experiment=ImageClassification((recall, ERROR)))
    store = RunStore(tmp_path)
    for row, value in zip(ROWS, (80.0, 90.0), strict=True):
        for seed in (0, 1):
            values = {"parameters": 1, "recall": value, "error": 1.0}
            store.add(Run(table.settings(row, TASK), seed, SIZES, {"processor": "a machine"}, values))
    text = report.render(TableRuns.find(table, TASK, store))
    assert "| parameters | recall, %    | test error, % | seeds |" in text
    assert "**reproduced**: 50% (90.00 ± 0.00 against 80.00 ± 0.00)" in text


def test_a_table_names_all_processors_and_takes_data_of_one_size(tmp_path: Path) -> None:
    each = found({row.key: [1.0] for row in ROWS}, tmp_path)
    other = replace(each.runs[ROWS[0].key][0], machine={"processor": "another"})
    mixed = replace(each, runs={**each.runs, ROWS[0].key: [other]})
    assert ", on another and a machine.\n" in report.render(mixed)
    resized = replace(other, sizes={**other.sizes, "train": 1199})
    with pytest.raises(ValueError, match=r"tiny_digits_cpu has runs on data of several sizes.*run tiny --again"):
        report.render(replace(each, runs={**each.runs, ROWS[0].key: [resized]}))


@pytest.mark.parametrize("each", REPORTED, ids=lambda each: each.name)
def test_committed_tables_come_from_the_committed_runs(each: TableRuns) -> None:
    assert (RESULTS / f"{each.name}.md").read_text(encoding="utf-8") == report.render(each)
    pictured = bool(each.table.line or each.table.experiment.picture)
    assert (RESULTS / f"{each.name}.png").exists() == pictured


def test_the_page_of_results_is_made_from_the_committed_files() -> None:
    assert len(REPORTED) > len(TABLES)
    assert report.PAGE.read_text(encoding="utf-8") == report.page(COMMITTED), "run `python -m benchmarks report`"


def test_a_table_is_markdown() -> None:
    assert markdown_table(["a", "long"], [["1", "2"]]).splitlines() == ["| a | long |", "| - | ---- |", "| 1 | 2    |"]
