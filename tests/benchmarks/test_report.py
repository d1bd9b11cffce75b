"""The report: tables, verdicts, pictures, and the page of results."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.claims import Claim, Comparison, seeds_needed
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


def test_comparisons_stand_under_their_claim_with_their_intervals(tmp_path: Path) -> None:
    small, large = (tuple(replace(row, network=WideNetwork(depth, 1)) for row in ROWS) for depth in (10, 16))
    rows = small + large
    table = replace(TABLE, rows=rows, claims=(Claim("Less is more", pairs(rows, "compressed", "dense")),))
    errors = {"WRN-10-1/compressed/50%": [1.0, 3.0], "WRN-10-1/dense/": [7.0, 9.1], "WRN-16-1/dense/": [2.0, 4.0]}
    each = found(errors, tmp_path, table)
    comparison = Comparison((6.0, 6.1), 0.3)
    text = report.render(each)
    assert text.endswith(f"| Less is more | WRN-10-1 | 2.00  | 8.05   | {comparison} | 2     | **ahead** |\n")
    assert text.startswith("Made by `python -m benchmarks run tiny --data digits --device cpu`: 1,200 training ")
    assert ", on a machine. The metric is test error, %, within 0.3. The rows are in " in text
    assert report.to_csv(each).splitlines() == [
        'network,method,budget,parameters,"test error, %",seeds',
        f"WRN-10-1,dense,,1234,8.05 ± {statistics.stdev([7.0, 9.1]):.2f},2",
        f"WRN-10-1,compressed,50%,1234,2.00 ± {statistics.stdev([1.0, 3.0]):.2f},2",
        f"WRN-16-1,dense,,1234,3.00 ± {statistics.stdev([2.0, 4.0]):.2f},2",
    ]


def test_seeds_are_paired_and_a_pilot_says_how_many_are_needed(tmp_path: Path) -> None:
    dense, shared = (row.key for row in ROWS)
    each = found({dense: [5.0, 7.0, 9.0], shared: [1.0, 2.0]}, tmp_path)
    needed = seeds_needed((4.0, 5.0), 0.3)
    assert f"| +4.50 ± 6.35 | 2 of {needed} | **cannot tell** |" in report.render(each)
    assert report.render_pilot(each).endswith(
        f"| {shared} | {dense} | 2     | 0.71                        | {needed}           |"
    )
    assert not report.tells(each)
    assert report.tells(found({dense: [5.0, 7.1], shared: [1.0, 3.0]}, tmp_path / "other"))


def test_conclusions_follow_from_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TABLES["error_against_parameters"]
    task, store = table.task("fashion_mnist", "cpu"), RunStore(tmp_path)
    errors = {"dense/": (10.0, 10.2), "wavg/12k": (10.5, 10.7), "reduced/12k": (13.0, 13.1), "wavg/25k": (10.0, 10.1)}
    for row in table.rows:
        for seed, error in enumerate(errors.get(row.key.removeprefix("WRN-16-1/"), ())):
            values = {"parameters": 1000 if row.method == "dense" else 70, "error": error}
            store.add(Run(table.settings(row, task), seed, SIZES, {"processor": "a machine"}, values))
    monkeypatch.setattr(report, "reported", lambda table, store: [TableRuns.find(table, task, store)])
    text = report._conclusions(store)
    assert "with 7% of the parameters its test error differs by +0.50 ± 0.00 points from the dense network's" in text
    assert "(behind), and by -2.45 ± 0.64 from that of the better thinner network (ahead).\n" in text
    assert text.count("%") == 1, "at 25k no thinner network was trained"


def test_a_pair_is_named_by_what_tells_it_apart(tmp_path: Path) -> None:
    networks = [WideNetwork(depth, 1) for depth in (10, 16, 22)]
    rows = tuple(Row(network, "compressed", "25k", compressed) for network in networks)
    deeper = Claim("Deeper is better", ((rows[1].key, rows[0].key), (rows[2].key, rows[1].key)))
    table = replace(TABLE, rows=rows, claims=(deeper,))
    text = report.render(found({row.key: [1.0, 1.0] for row in rows}, tmp_path, table))
    assert "| WRN-16-1 after WRN-10-1 | 1.00 " in text
    assert "| WRN-22-1 after WRN-16-1 | 1.00 " in text


def test_a_metric_may_be_better_when_it_is_higher(tmp_path: Path) -> None:
    recall = Metric("recall", "recall, %", higher_is_better=True)
    table = replace(TABLE, experiment=ImageClassification((recall, ERROR)))
    store = RunStore(tmp_path)
    for row, value in zip(ROWS, (80.0, 90.0), strict=True):
        for seed in (0, 1):
            values = {"parameters": 1, "recall": value, "error": 1.0}
            store.add(Run(table.settings(row, TASK), seed, SIZES, {"processor": "a machine"}, values))
    each = TableRuns.find(table, TASK, store)
    assert 'parameters,"recall, %","test error, %",seeds' in report.to_csv(each)
    assert "| +10.00 ± 0.00 | 2     | **ahead** |" in report.render(each)


def test_a_table_names_all_processors_and_takes_data_of_one_size(tmp_path: Path) -> None:
    each = found({row.key: [1.0] for row in ROWS}, tmp_path)
    other = replace(each.runs[ROWS[0].key][0], machine={"processor": "another"})
    mixed = replace(each, runs={**each.runs, ROWS[0].key: [other]})
    assert ", on another and a machine. " in report.render(mixed)
    resized = replace(other, sizes={**other.sizes, "train": 1199})
    with pytest.raises(ValueError, match=r"tiny_digits_cpu has runs on data of several sizes.*run tiny --again"):
        report.render(replace(each, runs={**each.runs, ROWS[0].key: [resized]}))


@pytest.mark.parametrize("each", REPORTED, ids=lambda each: each.name)
def test_committed_tables_come_from_the_committed_runs(each: TableRuns) -> None:
    assert (RESULTS / f"{each.name}.csv").read_text(encoding="utf-8") == report.to_csv(each)
    pictured = bool(each.table.line or each.table.experiment.picture)
    assert (RESULTS / f"{each.name}.png").exists() == pictured


def test_the_pages_of_results_are_made_from_the_committed_files() -> None:
    pages = report.pages(COMMITTED)
    committed = {f"results/{path.name}" for path in (report.DOCS / "results").glob("*.md")}
    assert REPORTED
    assert committed | {"results.md", "reproduce.md"} == set(pages), "run `python -m benchmarks report`"
    for name, text in pages.items():
        assert (report.DOCS / name).read_text(encoding="utf-8") == text, "run `python -m benchmarks report`"


def test_a_table_is_markdown() -> None:
    assert markdown_table(["a", "long"], [["1", "2"]]).splitlines() == ["| a | long |", "| - | ---- |", "| 1 | 2    |"]
