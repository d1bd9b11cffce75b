"""The papers' recipes: their tables, their estimates, and two steps at full size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__, recipes
from benchmarks.estimates import SIZES, estimate
from benchmarks.rehearsal import rehearse
from benchmarks.table import Table
from shapeshift.experiments.training import Recipe


@pytest.mark.parametrize("table", recipes.PAPER_TABLES.values(), ids=recipes.PAPER_TABLES)
def test_tables_are_trained_as_the_papers_say(table: Table) -> None:
    recipe = recipes.RECIPES[table.recipe]
    task = table.task(recipe.datasets[0], "cuda")
    assert isinstance(task.recipe, Recipe)
    assert task.recipe.bfloat16
    assert task.recipe.epochs > task.recipe.milestones[-1]
    assert not any(row.budget in recipes.BUDGETS for row in table.rows), "budgets of small networks"
    assert table.command == f"python -m benchmarks run {table.name.rpartition('_')[0]} --recipe {recipe.name}"
    assert table.claims


def test_the_recipe_of_wide_residual_networks() -> None:
    task = recipes.PAPER_TABLES["mapping_paper"].task("cifar100", "cuda")
    assert (task.recipe.learning_rate, task.recipe.milestones, task.recipe.factor) == (0.1, (60, 120, 160), 0.2)
    assert (task.recipe.weight_decay, task.recipe.batch_size, task.recipe.cutout) == (5e-4, 128, 16)
    assert recipes.PAPER_TABLES["soft_sharing_paper"].task("cifar10", "cuda").recipe.cutout == 0


# The others are rehearsed by `python -m benchmarks run TABLE --recipe paper --rehearse`.
@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("soft_sharing_paper", ["WRN-28-10/SWRN, k = 2/"]),
        ("distillation_paper", ["WRN-16-2/shared + OFD/4x"]),
        ("pruning_paper", ["ResNet-56/shared, HRank/"]),
        ("templates_paper", ["WRN-16-4/K=4/150%"]),
        ("mapping_paper", ["WRN-28-10/manual/14%"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_rows_take_two_steps_at_full_size(table: str, rows: list[str]) -> None:
    found = list(rehearse(recipes.PAPER_TABLES[table], patterns=rows))
    assert [row.key for row, *_ in found] == rows
    assert all(0 <= error <= 100 for _, error, _ in found)


def test_hours_follow_the_operations_of_a_forward_pass() -> None:
    table = recipes.PAPER_TABLES["soft_sharing_paper"]
    task = table.task("cifar100", "cuda")
    found = estimate(table.rows[0], task, SIZES["cifar100"], teraflops=40)
    # Zagoruyko and Komodakis count 36.5 million parameters; 5.25 billion multiplications with additions an image.
    assert found.parameters == 36_536_884
    assert found.hours == pytest.approx(3 * 2 * 5.25e9 * 50_000 * 200 / 40e12 / 3600, rel=0.01)
    assert 1 < found.gigabytes < 10
    assert estimate(table.rows[0], task, SIZES["cifar100"], teraflops=80).hours == pytest.approx(found.hours / 2)


def test_a_dry_run_only_estimates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    __main__.main(["run", "soft_sharing", "--recipe", "paper", "--dry-run", "--seeds", "1", "--output", str(tmp_path)])
    text = capsys.readouterr().out
    assert "| WRN-28-10 | SWRN, k = 2          |        | " in text
    assert "Estimated at 40 TFLOP/s: " in text
    assert "GPU hours for 1 seed of 14 rows." in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retrieval", "--recipe", "paper"], "retrieval has no recipe 'paper'; choose from generators"),
        (["mapping", "--dry-run"], "--dry-run and --rehearse are for a paper's recipe"),
        (
            ["mapping", "--recipe", "paper", "--data", "digits"],
            "mapping_paper has no data set 'digits'; choose from cifar",
        ),
    ],
)
def test_what_no_paper_has_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["run", *words])
    assert message in capsys.readouterr().err
