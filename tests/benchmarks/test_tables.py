"""The tables: their rows can be built, and what they claim is about rows that they have."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import shapeshift
from benchmarks import __main__
from benchmarks.claims import Claim
from benchmarks.experiments.classification import ImageClassification
from benchmarks.experiments.networks import WRN_16_QUARTER, Training, compressed, soft_shared
from benchmarks.experiments.pruning import pruned
from benchmarks.experiments.trained import factorised, magnitude_pruned
from benchmarks.row import Row
from benchmarks.table import Table
from benchmarks.tables import TABLES
from benchmarks.tables.starting_values import STARTS, with_coefficients
from shapeshift.budget import parse_budget
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe
from shapeshift.surgery.roots import require_shared
from tests.benchmarks.tiny import ROWS, TABLE
from tests.tolerances import assert_close

CLASSIFIERS = {name: each for name, each in TABLES.items() if type(each.experiment) is ImageClassification}


def test_list_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    __main__.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TABLES)
    assert all(table.title in line for table, line in zip(TABLES.values(), lines, strict=True))


@pytest.mark.parametrize("table", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_every_row_can_be_built(table: Table) -> None:
    side = max(getattr(row.network, "options", {}).get("img_size", 8) for row in table.rows)
    data = Images(torch.randn(16, 1, side, side), torch.arange(16) % 10, num_classes=10)
    training = Training(data, Recipe(epochs=1, batch_size=8), seed=0, device="cpu")
    for row in table.rows:
        json.dumps(row.settings)
        replace(training.recipe, **row.recipe)
    # Some ways to build take seconds: one network and one budget of a way stand for the others.
    methods = {row.method: row for row in table.rows}.values()
    for row in {(row.build, json.dumps(row.options)): row for row in methods}.values():
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


@pytest.mark.parametrize("start", STARTS)
def test_coefficients_start_as_their_row_says(start: str) -> None:
    data = Images(torch.randn(2, 1, 8, 8), torch.arange(2), num_classes=10)
    training = Training(data, Recipe(), seed=0, device="cpu")
    model = with_coefficients(WRN_16_QUARTER, "200%", training, start, length=3.0)
    (group,) = require_shared(model).generators()
    assert torch.is_tensor(group.coefficients)
    rows = group.coefficients.detach().split(group.layout.counts)
    assert_close(torch.stack([row.norm() for row in rows]), torch.full((len(rows),), 3.0), "reordered")
    if start in ("signs", "equal"):
        assert all(row.abs().unique_consecutive().numel() == 1 for row in rows)
    # The gains give each weight the deviation that it had.
    for index, weight in enumerate(group.weights):
        assert_close(group.generate([index])[0].std(correction=0), torch.tensor(weight.std), "reordered")


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


def test_a_data_set_that_an_experiment_does_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["run", "trained_text", "--data", "digits"])
    assert "trained_text has no data set 'digits'; choose from python_text" in capsys.readouterr().err
