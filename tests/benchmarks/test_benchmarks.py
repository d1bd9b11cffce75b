"""The benchmarks, at sizes that take seconds."""

from __future__ import annotations

import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import shapeshift
from benchmarks import __main__, harness, report, step_time
from benchmarks.baselines.paper_style import share_in_paper_style
from benchmarks.claims import Claim, Verdict, judge
from benchmarks.experiments.base import Experiment, Metric
from benchmarks.experiments.classification import CLASSIFICATION, ERROR, ImageClassification
from benchmarks.experiments.networks import Training, WideNetwork, compressed, dense, soft_shared
from benchmarks.experiments.pruning import pruned
from benchmarks.experiments.trained import factorised, fitted, magnitude_pruned
from benchmarks.markdown import RESULTS, markdown_table
from benchmarks.results import Results
from benchmarks.row import Row
from benchmarks.table import Table, pairs
from benchmarks.tables import TABLES
from benchmarks.task import Task
from benchmarks.workloads import WORKLOADS, Workload
from shapeshift.budget import parse_budget
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe
from shapeshift.networks.wide_resnet import WideResNet

TINY = WideNetwork(10, 0.25, stem=8)
ROWS = (Row(TINY, "dense", "", dense), Row(TINY, "compressed", "50%", compressed, {"mapping": "single"}))
TABLE = Table(
    name="tiny",
    title="Tiny networks",
    source="Nobody",
    expectation="Anything.",
    rows=ROWS,
    claims=(Claim("Less is more", pairs(ROWS, "compressed", "dense")),),
    line=("method",),
)
TASK = Task("digits", Recipe(epochs=2))
CLASSIFIERS = {name: each for name, each in TABLES.items() if type(each.experiment) is ImageClassification}
COMMITTED = [
    pytest.param(table, path, id=path.stem) for table in TABLES.values() for path in report.result_files(table)
]


def made_up(errors: dict[str, list[float]], rows: tuple[Row, ...] = ROWS) -> Results:
    """Make results with the given errors for each row's key."""
    settings = {
        **CLASSIFICATION.settings(TASK),
        "config": shapeshift.Config().to_dict(),
        "machine": {"processor": "a machine"},
    }
    runs = {
        f"{key}/{seed}": {"parameters": 1234, "error": error}
        for key, found in errors.items()
        for seed, error in enumerate(found)
    }
    return Results(settings, {row.key: row.settings for row in rows}, runs)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, where a replaced function is seen and nothing has to be imported again."""
    monkeypatch.setattr(harness, "ProcessPoolExecutor", lambda processes, *_: ThreadPoolExecutor(processes))


def test_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TABLES)
    assert all(table.title in line for table, line in zip(TABLES.values(), lines, strict=True))


@pytest.mark.parametrize("table", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_every_row_can_be_built(table: Table) -> None:
    data = Images(torch.randn(16, 1, 8, 8), torch.arange(16) % 10, num_classes=10)
    training = Training(data, Recipe(epochs=1, batch_size=8), seed=0, device="cpu")
    # Each fit of a network takes seconds: one budget stands for the others.
    for row in [row for row in table.rows if row.build is not fitted or row.budget == "25%"]:
        json.dumps(row.settings)
        replace(training.recipe, **row.recipe)
        model = row.build(row.network, row.budget, training, **row.options)
        assert model(data.images[:2]).shape == (2, 10), row.key
        size, own = shapeshift.count_parameters(model), shapeshift.count_parameters(row.network.build(data))
        if row.build in (pruned, soft_shared):  # nothing says how large they are to be
            assert size < 1.01 * own, row.key
        else:
            allowed = parse_budget(row.budget, own) if row.budget else own
            # Whole channels and whole ranks go.
            least = 0.75 if row.build in (factorised, magnitude_pruned) else 0.9
            assert least * allowed < size <= allowed, row.key


def test_most_of_the_upsampled_networks_is_upsampled() -> None:
    data = Images(torch.randn(2, 1, 8, 8), torch.arange(2), num_classes=10)
    training = Training(data, Recipe(), seed=0, device="cpu")
    rows = [row for row in TABLES["upsampling"].rows if row.build is compressed]
    assert rows
    for row in rows:
        model = compressed(row.network, row.budget, training, **row.options)
        weights = [weight for group in shapeshift.report(model).groups for weight in group.weights]
        stretched = sum(weight.numel for weight in weights if "up" in weight.source.sampling)
        assert stretched > 0.7 * sum(weight.numel for weight in weights), row.key


@pytest.mark.parametrize(
    ("rows", "claims", "message"),
    [
        (ROWS[:1] * 2, (), "two rows of one name: WRN-10-0.25/dense/"),
        (ROWS[:1], TABLE.claims, "does not have: WRN-10-0.25/compressed/50%"),
    ],
)
def test_a_table_is_consistent(rows: tuple[Row, ...], claims: tuple[Claim, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TABLE, rows=rows, claims=claims)


def test_a_benchmark_runs_resumes_and_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "TABLES", {"tiny": TABLE})
    monkeypatch.setattr(ImageClassification, "task", lambda self, data, device, data_dir: TASK)
    command = ["run", "tiny", "--seeds", "1", "--processes", "1", "--output", str(tmp_path)]
    __main__.main(command)
    path = tmp_path / "tiny_digits_cpu.json"
    content = json.loads(path.read_text())
    assert list(content["runs"]) == ["WRN-10-0.25/compressed/50%/0", "WRN-10-0.25/dense//0"]
    assert all(0 < run["error"] < 100 for run in content["runs"].values())
    assert path.with_suffix(".png").exists()

    content["runs"]["WRN-10-0.25/dense//0"]["error"] = 12.34
    path.write_text(json.dumps(content))
    capsys.readouterr()
    monkeypatch.setattr(harness, "measure", None)  # would fail if anything were trained
    __main__.main(command)
    assert "12.34 ± 0.00" in (text := capsys.readouterr().out)
    assert text == path.with_suffix(".md").read_text() + "\n"


@pytest.mark.usefixtures("in_threads")
def test_rows_are_repeated_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def note(experiment: Experiment, row: Row, task: Task, seed: int) -> dict[str, Any]:
        trained.append((row.method, seed))
        return {"parameters": 1, "error": 1.0}

    monkeypatch.setattr(harness, "measure", note)
    path = tmp_path / "tiny.json"
    harness.run(TABLE, TASK, seeds=2, processes=1, path=path)
    assert trained == [("dense", 0), ("compressed", 0), ("dense", 1), ("compressed", 1)]
    trained.clear()
    results = harness.run(TABLE, TASK, seeds=2, processes=1, path=path, again=["*/compressed/*"])
    assert trained == [("compressed", 0), ("compressed", 1)]
    assert Results.read(path) == results


@pytest.mark.usefixtures("in_threads")
def test_only_the_chosen_rows_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "measure", lambda experiment, row, task, seed: {"parameters": 1, "error": 1.0})
    results = harness.run(TABLE, TASK, seeds=1, processes=1, path=tmp_path / "tiny.json", rows=["*/50%"])
    assert list(results.runs) == ["WRN-10-0.25/compressed/50%/0"]


def test_runs_of_the_same_network_under_another_name_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "measure", None)  # would fail if anything were trained
    path = tmp_path / "tiny.json"
    made_up({row.key: [1.0, 2.0] for row in ROWS}).write(path)
    # "single" is the default, so this is the same network; "shape" is another one.
    same = replace(ROWS[1], method="by default", options={})
    other = replace(ROWS[1], method="by shape", options={"mapping": "shape"})
    table = replace(TABLE, name="other", rows=(same, other), claims=())
    written = tmp_path / "other.json"
    results = harness.run(table, TASK, 2, 1, written, rows=["*/by default/*"], others={path: TABLE})
    assert results.values(same.key, ERROR) == [1.0, 2.0]
    assert not results.has(other.key)
    assert Results.read(written) == results


@pytest.mark.usefixtures("in_threads")
def test_a_failure_names_its_run_and_keeps_the_others(tmp_path: Path) -> None:
    impossible = replace(ROWS[1], budget="3")
    table = replace(TABLE, rows=(ROWS[0], impossible), claims=())
    with pytest.raises(shapeshift.BudgetError) as caught:
        harness.run(table, TASK, seeds=1, processes=1, path=tmp_path / "tiny.json")
    assert caught.value.__notes__ == ["in the run WRN-10-0.25/compressed/3/0"]
    assert list(Results.read(tmp_path / "tiny.json").runs) == ["WRN-10-0.25/dense//0"]


def test_runs_under_other_settings_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    kept = made_up({row.key: [1.0, 2.0] for row in ROWS})
    kept.settings["config"].pop("seed")  # a field that was added later
    kept.write(path)
    settings = made_up({}).settings
    assert Results.resume(path, settings, ROWS).runs == kept.runs
    assert Results.resume(path, {**settings, "machine": {}}, ROWS).runs == kept.runs
    for key, other in (
        ("recipe", asdict(Recipe(epochs=3))),
        ("config", {**settings["config"], "upsample": "interpolate"}),
        ("data", {**settings["data"], "train": 1199}),
        ("device", "cuda"),
    ):
        assert not Results.resume(path, {**settings, key: other}, ROWS).runs, key
    for changed in (replace(ROWS[1], options={"mapping": "shape"}), replace(ROWS[1], recipe={"learning_rate": 1.0})):
        assert set(Results.resume(path, settings, (ROWS[0], changed)).runs) == {f"{ROWS[0].key}/{s}" for s in (0, 1)}
    assert not Results.resume(tmp_path / "none.json", settings, ROWS).runs


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], Verdict.REPRODUCED),
        ([4.0, 4.0, 4.0], [1.0, 2.0, 3.0], Verdict.NOT_REPRODUCED),
        ([1.0, 2.0, 3.0], [2.5, 2.5, 2.5], Verdict.WITHIN),
        ([2.5, 2.5, 2.5], [1.0, 2.0, 3.0], Verdict.WITHIN),
        ([1.0, 2.0, 3.0], [3.0, 3.0, 3.0], Verdict.WITHIN),  # exactly one standard deviation
        ([1.0, 1.0], [1.0, 1.0], Verdict.WITHIN),
        ([1.0], [4.0, 4.0], Verdict.ONE_SEED),
    ],
)
def test_verdicts(first: list[float], second: list[float], verdict: Verdict) -> None:
    assert judge(first, second) == verdict


def test_verdicts_stand_under_the_table_with_their_numbers() -> None:
    small, large = (tuple(replace(row, network=WideNetwork(depth, 1)) for row in ROWS) for depth in (10, 16))
    rows = small + large
    table = replace(TABLE, rows=rows, claims=(Claim("Less is more", pairs(rows, "compressed", "dense")),))
    errors = {"WRN-10-1/compressed/50%": [1.0, 3.0], "WRN-10-1/dense/": [7.0, 9.0], "WRN-16-1/dense/": [2.0, 4.0]}
    text = report.render(table, made_up(errors, rows))
    spread = f"{statistics.stdev([1.0, 3.0]):.2f}"
    assert text.endswith(
        "Not run yet: 1 of 4 rows.\n\nExpected, and found:\n\n* Less is more:\n"
        f"  * **reproduced**: WRN-10-1 (2.00 ± {spread} against 8.00 ± {spread})\n"
    )
    assert f"| WRN-16-1 | dense      |        | 1,234      | 3.00 ± {spread}   | 2     |" in text


def test_a_pair_is_named_by_what_tells_it_apart() -> None:
    networks = [WideNetwork(depth, 1) for depth in (10, 16, 22)]
    rows = tuple(Row(network, "compressed", "25k", compressed) for network in networks)
    deeper = Claim("Deeper is better", ((rows[1].key, rows[0].key), (rows[2].key, rows[1].key)))
    table = replace(TABLE, rows=rows, claims=(deeper,))
    text = report.render(table, made_up({row.key: [1.0, 1.0] for row in rows}, rows))
    assert "WRN-16-1 after WRN-10-1 (1.00 ± 0.00 against 1.00 ± 0.00); WRN-22-1 after WRN-16-1 (" in text


@pytest.mark.parametrize(("table", "path"), COMMITTED)
def test_committed_tables_come_from_the_committed_runs(table: Table, path: Path) -> None:
    results = Results.read(path)
    assert path.with_suffix(".md").read_text(encoding="utf-8") == report.render(table, results)
    assert path.with_suffix(".png").exists() == bool(table.line or table.experiment.picture)


@pytest.mark.parametrize(("table", "path"), COMMITTED)
def test_committed_runs_are_those_of_the_present_rows_and_settings(table: Table, path: Path) -> None:
    results = Results.read(path)
    experiment, data = table.experiment, results.settings["data"]["name"]
    task = table.adapt(experiment.task(data, results.settings["device"]))
    settings = {**results.settings, "recipe": asdict(task.recipe), "config": shapeshift.Config().to_dict()}
    assert results.runs
    assert Results.resume(path, settings, table.rows).runs == results.runs


def test_the_page_of_results_is_made_from_the_committed_files() -> None:
    assert report.PAGE.read_text(encoding="utf-8") == report.page(), "run `python -m benchmarks report`"


def test_a_metric_may_be_better_when_it_is_higher() -> None:
    recall = Metric("recall", "recall, %", higher_is_better=True)
    table = replace(TABLE, experiment=ImageClassification((recall, ERROR)))
    results = made_up({row.key: [1.0, 1.0] for row in ROWS})
    for key, run in results.runs.items():
        run["recall"] = 90.0 if "compressed" in key else 80.0
    text = report.render(table, results)
    assert "| parameters | recall, %    | test error, % | seeds |" in text
    assert "**reproduced**: 50% (90.00 ± 0.00 against 80.00 ± 0.00)" in text


def test_a_data_set_that_an_experiment_does_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["run", "trained_text", "--data", "digits"])
    assert "trained_text has no data set 'digits'; choose from python_text" in capsys.readouterr().err


def test_a_table_is_markdown() -> None:
    assert markdown_table(["a", "long"], [["1", "2"]]).splitlines() == ["| a | long |", "| - | ---- |", "| 1 | 2    |"]


def test_the_papers_generator_has_the_budget_and_learns() -> None:
    model = share_in_paper_style(WideResNet(10, 0.5, in_channels=1), store_size=20_000)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert model.paper_store.numel() == 20_000
    assert model.paper_store.grad.any()
    assert model.stem.weight_coefficients.grad.any()


def test_step_time_measures_and_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    def images(batch_size: int) -> torch.Tensor:
        return torch.randn(batch_size, 1, 8, 8)

    tiny = Workload("tiny", partial(WideResNet, 10, 0.5, in_channels=1), images, WORKLOADS["wrn"].optimizer, 2, 2)
    monkeypatch.setattr(step_time, "WORKLOADS", {"tiny": tiny})
    monkeypatch.setattr(step_time, "LARGE_MODELS", ("test_resnet",))
    arguments: Any = type("Arguments", (), {"device": "cpu", "steps": 1, "budget": "2x"})
    results = {
        f"{name}:{row}": [step_time._MEASURES[name](row, arguments)]
        for name, row in (("steps", "tiny"), ("paper", "tiny"), ("dense", "tiny"), ("shared", "tiny"))
    }
    results["setup:test_resnet"] = [step_time.measure_setup("test_resnet", arguments)]
    machine = step_time.describe("cpu")
    table = step_time.render({"results": results, "machine": machine, "budget": "2x", "steps": 1})
    row = next(line for line in table.splitlines() if line.startswith("| tiny, batch 2"))
    ratio = results["steps:tiny"][0]["shared"] / results["steps:tiny"][0]["dense"]
    assert f"{ratio:.2f}" in row


def test_the_committed_step_times_come_from_the_committed_numbers() -> None:
    content = json.loads((RESULTS / "step_time_cpu.json").read_text())
    assert (RESULTS / "step_time_cpu.md").read_text() == step_time.render(content)
