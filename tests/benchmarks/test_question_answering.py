"""The benchmark of question answering."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import shapeshift
from benchmarks.experiments import question_answering as benchmark
from benchmarks.experiments.question_answering import Answering, Pretraining, Sizes, distinct
from benchmarks.row import Row
from benchmarks.tables.question_answering import TABLE
from benchmarks.task import Task
from shapeshift.experiments.data.questions import questions
from shapeshift.experiments.training import Recipe

TINY = Sizes(layers=2, hidden=32, heads=2, inner=64, embedding=16)
SHORT = Recipe(2, 4, 2e-3, weight_decay=0.01, optimizer="adamw")


def task(answering: Answering) -> Task:
    """Shrink the benchmark's task to what takes a second."""
    chosen = answering.task("python_topics", "cpu")
    return replace(chosen, recipe=replace(chosen.recipe, pretraining=SHORT, fine_tuning=SHORT, search=2))


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    training, test = questions()
    benchmark._cached.cache_clear()
    monkeypatch.setattr(benchmark, "_load", lambda data, data_dir, options: (training[:64], test[:32]))


@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize(
    "row", [row for row in TABLE.rows if row.network.title == "ALBERT-base"], ids=lambda row: row.key
)
def test_every_row_has_the_size_of_albert(row: Row) -> None:
    experiment = Answering()
    chosen = task(experiment)
    prepared = benchmark._prepare(chosen)
    pretraining = Pretraining(prepared.texts, prepared.tokenizer, chosen.recipe, seed=0, device="cpu")
    small = replace(row.network, small=TINY)
    model = row.build(small, row.budget, pretraining, **row.options)
    size, albert = shapeshift.count_parameters(model), shapeshift.count_parameters(small.build(pretraining))
    assert json.dumps(row.settings)
    if row.build is distinct:
        assert size > albert
    else:
        assert 0.99 * albert < size <= albert
    assert shapeshift.is_compressed(model) == bool(row.budget)
    if row.method == "learned":
        assert len(model.shapeshift) == 4


@pytest.mark.usefixtures("few_questions")
def test_a_row_is_pretrained_trained_and_scored() -> None:
    experiment = Answering()
    row = next(row for row in TABLE.rows if row.method == "single")
    torch.manual_seed(0)
    run = experiment.run(replace(row, network=replace(row.network, small=TINY)), task(experiment), seed=0)
    assert set(run) == {"parameters", "f1", "exact"}
    assert 0 <= run["exact"] <= run["f1"] <= 100
    torch.manual_seed(0)
    assert experiment.run(replace(row, network=replace(row.network, small=TINY)), task(experiment), seed=0) == run


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_perls_questions_are_a_task(tmp_path: Path, device: str) -> None:
    asked = "\n\n".join(f"=head2 What is {name}?\n\nIt is a letter, {name}." for name in "abcdefghijklmnopqrst")
    (tmp_path / "perlfaq1.pod").write_text(asked)
    experiment = Answering()
    chosen = experiment.task("perlfaq", device, tmp_path)
    sizes = experiment.describe(chosen)
    assert (sizes["train"], sizes["test"]) == (8 * 16, 8 * 4)
    assert "128 training and 32 test questions" in experiment.caption(sizes, asdict(chosen.recipe))


@pytest.mark.parametrize(("title", "size", "pooler"), [("base", 11_683_584, 768), ("large", 17_683_968, 1024)])
def test_the_full_sizes_are_those_of_albert(title: str, size: int, pooler: int) -> None:
    recipe = Answering().task("squad_v1.1", "cuda").recipe
    network = next(row.network for row in TABLE.rows if row.network.title == f"ALBERT-{title}")

    class Words:
        pad_token_id = 0

        def __len__(self) -> int:
            return 30_000

    pretraining = Pretraining((), Words(), replace(recipe, length=512), seed=0, device="meta")
    with torch.device("meta"):
        model = network.build(pretraining)
    # The published checkpoints have a pooler, which nothing here reads.
    assert shapeshift.count_parameters(model) == size - pooler * (pooler + 1)
