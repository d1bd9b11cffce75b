"""Runs: their names, the store, the training of what is missing, and the runs that no table asks for."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import shapeshift
from benchmarks import __main__, harness, runs
from benchmarks.experiments.base import Experiment
from benchmarks.experiments.classification import BEFORE, ERROR, ImageClassification
from benchmarks.results import RESULTS
from benchmarks.row import Row
from benchmarks.runs import RunStore, run_name, without_later_fields
from benchmarks.table_runs import TableRuns, find_table_runs, stale_runs
from benchmarks.tables import TABLES
from benchmarks.task import Task
from shapeshift.experiments import training
from shapeshift.experiments.training import Recipe
from tests.benchmarks.tiny import ROWS, SIZES, TABLE, TASK, made_up

DENSE, COMPRESSED = ROWS


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, where a replaced function is seen and nothing has to be imported again."""
    monkeypatch.setattr(harness, "ProcessPoolExecutor", lambda processes, *_: ThreadPoolExecutor(processes))


def name(row: Row = COMPRESSED, task: Task = TASK, seed: int = 0, experiment: Experiment = TABLE.experiment) -> str:
    return run_name(replace(TABLE, experiment=experiment).settings(row, task), seed)


def test_a_run_is_named_by_everything_that_determines_it() -> None:
    changed = [
        name(),
        name(seed=1),
        name(DENSE),
        name(replace(COMPRESSED, budget="25%")),
        name(replace(COMPRESSED, options={"mapping": "shape"})),
        name(replace(COMPRESSED, recipe={"learning_rate": 1.0})),
        name(task=replace(TASK, data="glyphs")),
        name(task=replace(TASK, options={"train": 300})),
        name(task=replace(TASK, device="cuda")),
        name(task=replace(TASK, recipe=Recipe(epochs=3))),
        name(experiment=ImageClassification((ERROR, BEFORE))),
    ]
    assert len(set(changed)) == len(changed)
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in changed)


def test_a_run_has_one_name_whatever_a_table_calls_it() -> None:
    assert name(replace(COMPRESSED, method="another")) == name()
    assert name(replace(COMPRESSED, options={})) == name()  # "single" is the default
    assert name(task=replace(TASK, data_dir=Path("anywhere"))) == name()


def test_a_changed_default_changes_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name()
    fields = shapeshift.Config().to_dict()
    monkeypatch.setattr(shapeshift.Config, "to_dict", lambda self: {**fields, "upsample": "interpolate"})
    assert name() != before


@pytest.mark.parametrize("part", ["config", "recipe"])
def test_a_field_that_was_added_later_leaves_names_as_they_are(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = TABLE.settings(COMPRESSED, TASK)
    now = {**earlier, part: {**earlier[part], "added": 0}}
    assert run_name(now, 0) != run_name(earlier, 0)
    monkeypatch.setitem(runs.ADDED_LATER, part, {"added": 0})
    assert run_name(now, 0) == run_name(earlier, 0)
    assert run_name({**earlier, part: {**earlier[part], "added": 1}}, 0) != run_name(earlier, 0)
    # A recipe can hold others, such as that of pretraining.
    nested = {**earlier, part: {"inner": earlier[part]}}
    assert run_name({**earlier, part: {"inner": now[part]}}, 0) == run_name(nested, 0)


def test_a_store_reads_what_was_added_and_removes_it(tmp_path: Path) -> None:
    store = made_up({DENSE.key: [1.0, 2.0, 3.0]}, tmp_path)
    again = RunStore(tmp_path)
    assert again.runs == store.runs
    found = again.find(TABLE.settings(DENSE, TASK))
    assert [(run.seed, run.values["error"]) for run in found] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    again.remove(found[1].name)
    assert [run.seed for run in RunStore(tmp_path).find(TABLE.settings(DENSE, TASK))] == [0, 2]
    assert not again.find(TABLE.settings(COMPRESSED, TASK))


def test_a_table_runs_resumes_and_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "TABLES", {"tiny": TABLE})
    monkeypatch.setattr(ImageClassification, "task", lambda self, data, device, data_dir: TASK)
    command = ["run", "tiny", "--seeds", "1", "--processes", "1", "--output", str(tmp_path)]
    __main__.main(command)
    store = RunStore(tmp_path / "runs")
    assert set(store.runs) == {name(DENSE), name(COMPRESSED)}
    assert all(0 < run.values["error"] < 100 for run in store.runs.values())
    assert (tmp_path / "tiny_digits_cpu.png").exists()

    store.add(replace(store.runs[name(DENSE)], values={"parameters": 1, "error": 12.34}))
    capsys.readouterr()
    monkeypatch.setattr(harness, "measure", None)  # would fail if anything were trained
    __main__.main(command)
    assert "12.34 ± 0.00" in capsys.readouterr().out
    assert "12.34 ± 0.00" in (tmp_path / "tiny_digits_cpu.csv").read_text()


@pytest.mark.usefixtures("in_threads")
def test_rows_are_repeated_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def note(experiment: Experiment, row: Row, task: Task, seed: int) -> dict[str, Any]:
        trained.append((row.method, seed))
        return {"parameters": 1, "error": 1.0}

    monkeypatch.setattr(harness, "measure", note)
    store = RunStore(tmp_path)
    harness.run(TABLE, TASK, seeds=2, processes=1, store=store)
    assert trained == [("dense", 0), ("compressed", 0), ("dense", 1), ("compressed", 1)]
    trained.clear()
    found = harness.run(TABLE, TASK, seeds=2, processes=1, store=store, again=["*/compressed/*"])
    assert trained == [("compressed", 0), ("compressed", 1)]
    assert TableRuns.find(TABLE, TASK, RunStore(tmp_path)) == found


@pytest.mark.usefixtures("in_threads")
def test_runs_on_data_of_another_size_are_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made_up({DENSE.key: [1.0], COMPRESSED.key: [1.0]}, tmp_path)
    store.add(replace(store.runs[name(DENSE)], sizes={**SIZES, "train": 1199}))
    monkeypatch.setattr(harness, "measure", lambda experiment, row, task, seed: {"parameters": 1, "error": 2.0})
    found = harness.run(TABLE, TASK, seeds=1, processes=1, store=store)
    assert [found.values(row.key, ERROR) for row in ROWS] == [[2.0], [1.0]]
    assert found.sizes == SIZES


@pytest.mark.usefixtures("in_threads")
def test_only_the_chosen_rows_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "measure", lambda experiment, row, task, seed: {"parameters": 1, "error": 1.0})
    store = RunStore(tmp_path)
    found = harness.run(TABLE, TASK, seeds=1, processes=1, store=store, rows=["*/50%"])
    assert list(store.runs) == [name(COMPRESSED)]
    assert [found.has(row.key) for row in ROWS] == [False, True]


def test_runs_of_the_same_network_under_another_name_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "measure", None)  # would fail if anything were trained
    store = made_up({row.key: [1.0, 2.0] for row in ROWS}, tmp_path)
    # "single" is the default, so this is the same network; "shape" is another one.
    same = replace(COMPRESSED, method="by default", options={})
    other = replace(COMPRESSED, method="by shape", options={"mapping": "shape"})
    table = replace(TABLE, name="other", rows=(same, other), claims=())
    found = harness.run(table, TASK, 2, 1, store, rows=["*/by default/*"])
    assert found.values(same.key, ERROR) == [1.0, 2.0]
    assert not found.has(other.key)


@pytest.mark.usefixtures("in_threads")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, task = replace(TABLE, rows=ROWS[1:], claims=()), replace(TASK, recipe=Recipe(epochs=3))
    whole = harness.run(table, task, 1, 1, RunStore(tmp_path / "whole" / "runs"))
    store, keep, kept = RunStore(tmp_path / "killed" / "runs"), training._State.keep, []

    def kill(state: training._State, path: Path | None) -> None:
        keep(state, path)
        kept.append(path)
        if len(kept) == 2:
            raise RuntimeError("killed")

    monkeypatch.setattr(training._State, "keep", kill)
    with pytest.raises(RuntimeError, match="killed"):
        harness.run(table, task, 1, 1, store)
    found = harness.run(table, task, 1, 1, RunStore(store.folder))
    assert len(kept) == 3, "the third epoch is all that was left"
    assert found.values(COMPRESSED.key, ERROR) == whole.values(COMPRESSED.key, ERROR)
    assert not kept[0].exists()


def test_a_worker_takes_over_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, recipe=Recipe(epochs=200))
    folder, settings = tmp_path / "runs", TABLE.settings(COMPRESSED, task)
    job = harness.Job(folder, settings, SIZES, {"processor": "a machine"}, TABLE.experiment, COMPRESSED, task, 0)
    worker = multiprocessing.get_context("spawn").Process(target=job.run)
    worker.start()
    checkpoint = tmp_path / "unfinished" / job.name / "row.pt"
    while not checkpoint.exists():
        assert worker.is_alive()
        time.sleep(0.05)
    assert job.run() is None, "another worker has it"
    worker.kill()
    worker.join()

    epochs, *_ = torch.load(checkpoint)
    torch.save((197, *_), checkpoint)  # the rest of it need not be trained here
    keep, kept = training._State.keep, []
    monkeypatch.setattr(training._State, "keep", lambda state, path: (kept.append(state.epochs), keep(state, path)))
    run = job.run()
    assert (epochs < 200, kept) == (True, [197, 198, 199])
    assert run is not None
    assert RunStore(folder).runs == {job.name: run}
    monkeypatch.setattr(harness, "measure", None)  # would fail if it were trained again
    assert job.run() == run
    assert not (tmp_path / "unfinished" / job.name / "row.pt").exists()


@pytest.mark.usefixtures("in_threads")
def test_a_failure_names_its_run_and_keeps_the_others(tmp_path: Path) -> None:
    impossible = replace(COMPRESSED, budget="3")
    table, store = replace(TABLE, rows=(DENSE, impossible), claims=()), RunStore(tmp_path)
    with pytest.raises(shapeshift.BudgetError) as caught:
        harness.run(table, TASK, seeds=1, processes=1, store=store)
    assert caught.value.__notes__[-1] == "in the run WRN-10-0.25/compressed/3/0"
    assert list(RunStore(tmp_path).runs) == [name(DENSE)]


def test_stale_runs_are_named_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "TABLES", {"tiny": replace(TABLE, rows=ROWS[:1], claims=())})
    monkeypatch.setattr(ImageClassification, "task", lambda self, data, device, data_dir: TASK)
    made_up({row.key: [1.0, 2.0] for row in ROWS}, tmp_path / "runs")
    __main__.main(["prune", "--dry-run", "--output", str(tmp_path)])
    text = capsys.readouterr().out
    assert f"{name(COMPRESSED, seed=1)}: ImageClassification, digits, compressed, seed 1\n" in text
    assert text.endswith("\n2 of 4 runs are stale\n")
    assert len(RunStore(tmp_path / "runs").runs) == 4
    __main__.main(["prune", "--output", str(tmp_path)])
    assert capsys.readouterr().out == text
    assert set(RunStore(tmp_path / "runs").runs) == {name(DENSE), name(DENSE, seed=1)}


def test_runs_of_tables_that_cannot_tell_are_deleted_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "TABLES", {"tiny": TABLE})
    monkeypatch.setattr(ImageClassification, "task", lambda self, data, device, data_dir: TASK)
    made_up({DENSE.key: [1.0, 2.0], COMPRESSED.key: [2.0, 1.0]}, tmp_path / "runs")
    (tmp_path / "tiny_digits_cpu.csv").touch()
    __main__.main(["pilot", "tiny", "--output", str(tmp_path)])
    assert f"| {COMPRESSED.key} | {DENSE.key} | 2 " in capsys.readouterr().out
    __main__.main(["prune", "--output", str(tmp_path)])
    assert len(RunStore(tmp_path / "runs").runs) == 4
    __main__.main(["prune", "--undecided", "--output", str(tmp_path)])
    assert not list(tmp_path.rglob("*.*"))


def test_committed_runs_are_those_of_the_present_rows_and_settings() -> None:
    store = RunStore(RESULTS / "runs")
    assert all(file == run.name for file, run in store.runs.items())
    on_store = [found for table in TABLES.values() for found in find_table_runs(table, store)]
    assert not stale_runs(on_store, store), "run `python -m benchmarks prune`"
    asked = {
        run.name: found.table.settings(row, found.task)
        for found in on_store
        for row in found.table.rows
        for run in found.runs[row.key]
    }
    for file, settings in asked.items():
        now, stored = (without_later_fields(each) for each in (settings, store.runs[file].settings))
        assert json.loads(json.dumps(now)) == stored
