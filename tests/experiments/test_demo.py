"""The demo, and the data and the training loop behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import shapeshift
from shapeshift.experiments import demo
from shapeshift.experiments.data.digits import digits
from shapeshift.experiments.training import Recipe, error, predict, train
from shapeshift.networks.wide_resnet import WideResNet


def test_digits_are_split_and_standardised() -> None:
    training, test = digits()
    assert (len(training.labels), len(test.labels)) == (1200, 597)
    assert training.images.shape[1:] == (1, 8, 8)
    assert training.images.mean().item() == pytest.approx(0, abs=1e-5)
    assert training.images.std().item() == pytest.approx(1, abs=1e-5)
    assert set(test.labels.tolist()) == set(range(10))
    again, _ = digits()
    assert torch.equal(again.images, training.images)


@pytest.mark.parametrize("budget", [None, "25%"])
def test_a_network_learns_and_the_seed_decides_how(budget: str | None) -> None:
    training, test = digits()
    predictions = []
    for _ in range(2):
        torch.manual_seed(0)
        model = WideResNet(10, 0.5, in_channels=1)
        if budget is not None:
            shapeshift.compress(model, budget)
        before = error(model, test)
        epochs: list[None] = []
        train(model, training, Recipe(epochs=2), seed=0, on_epoch=lambda epochs=epochs: epochs.append(None))
        assert len(epochs) == 2
        assert error(model, test) < before / 2
        predictions.append(predict(model, test))
    assert torch.equal(*predictions)


def test_the_demo_leaves_a_table_a_plot_and_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--budgets", "12k", "--seeds", "1", "--epochs", "1", "--output", str(tmp_path)]
    assert demo.main(arguments) == 0
    printed = capsys.readouterr().out
    for words in ("dense", "reduced 12k", "compressed 12k", "12,000", "174,778", "equal predictions"):
        assert words in printed
    assert (tmp_path / "table.md").read_text().count("\n| ") == 4
    assert (tmp_path / "error_against_parameters.png").read_bytes().startswith(b"\x89PNG")

    folder = tmp_path / "compressed-12k" / "seed-0"
    compressed = shapeshift.load(folder, WideResNet(16, 1, in_channels=1))
    plain = WideResNet(16, 1, in_channels=1)
    plain.load_state_dict(safetensors.torch.load_file(folder / "materialized.safetensors"))
    _, test = digits()
    assert torch.equal(predict(compressed, test), predict(plain, test))


def test_the_table_in_the_readme_comes_from_the_committed_numbers() -> None:
    root = Path(__file__).parents[2]
    results = [demo.Result(**fields) for fields in json.loads((root / "benchmarks/results/demo.json").read_text())]
    expected = [
        [str(cell) for cell in row]
        for row in zip(*(column.cells for column in demo._table(results).columns), strict=True)
    ]
    written = (root / "README.md").read_text().partition("<!-- demo table -->")[2].partition("<!-- end")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines() if line[:1] == "|"]
    assert rows[2:] == [[cell.strip() for cell in row] for row in expected]


def test_a_checkpoint_that_predicts_otherwise_is_noticed(tmp_path: Path) -> None:
    model = shapeshift.compress(WideResNet(16, 1, in_channels=1), "12k")
    shapeshift.save(model, tmp_path)
    with torch.no_grad():
        model.head.bias.add_(1 + torch.arange(10))
    with pytest.raises(RuntimeError, match="compressed checkpoint"):
        demo._check_checkpoints(model, tmp_path, digits()[1])
