"""The distillation scripts, run at a small size, and the loop and the text behind them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import shapeshift
from shapeshift.distill import DISTILLERS
from shapeshift.experiments.data import text
from shapeshift.experiments.data.digits import digits
from shapeshift.experiments.data.text import MODULES, START, passages
from shapeshift.experiments.data.vocabulary import PADDING, UNKNOWN
from shapeshift.experiments.distillation import plain as plain_script
from shapeshift.experiments.distillation import text as text_script
from shapeshift.experiments.distillation import timm as timm_script
from shapeshift.experiments.training import Recipe, error, predict, train
from shapeshift.networks.wide_resnet import WideResNet
from tests.tolerances import assert_close

DIGITS = digits()


def network(width: float, seed: int) -> WideResNet:
    torch.manual_seed(seed)
    return WideResNet(10, width, in_channels=1)


@pytest.fixture(scope="module")
def teacher() -> WideResNet:
    model = network(1, seed=0)
    train(model, DIGITS[0], Recipe(epochs=3), seed=0)
    return model


def rows(printed: str) -> dict[str, tuple[int, float]]:
    """Read the parameters and the error of each network from a printed table."""
    found = re.findall(r"│ ([\w %+]+?) +│ +([\d,]+) │ +([\d.]+) │ +[\d.]+ │", printed)
    return {name: (int(parameters.replace(",", "")), float(error)) for name, parameters, error in found}


@pytest.mark.parametrize("budget", [None, "50%"])
@pytest.mark.parametrize("method", list(DISTILLERS))
def test_the_plain_loop_trains_towards_the_teacher(method: str, budget: str | None, teacher: WideResNet) -> None:
    training, test = DIGITS
    recipe = Recipe(epochs=3)
    weights = [parameter.clone() for parameter in teacher.parameters()]
    logits, losses = predict(teacher, test), []
    for distilled in (False, True):
        student = network(0.5, seed=1)
        if budget is not None:
            shapeshift.compress(student, budget)
        with DISTILLERS[method](teacher, student) as distiller:
            before = [parameter.clone() for parameter in distiller.parameters()]
            train(student, training, recipe, seed=1, distiller=distiller if distilled else None)
            student(training.images[:256])
            losses.append(distiller(training.images[:256], training.labels[:256]).item())
        assert all(torch.equal(*pair) != distilled for pair in zip(before, distiller.parameters(), strict=True))
        if distilled:
            assert error(student, test) < 30
    assert losses[1] < losses[0]
    assert_close(list(teacher.parameters()), weights, "identical")
    assert_close(predict(teacher, test), logits, "identical")


def test_the_plain_script_prints_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--method", "kd", "ofd", "srrl", "--epochs", "2", "--budget", "4x", "--student-width", "0.5"]
    assert plain_script.main([*arguments, "--teacher-width", "0.5", "--seed", "3", "--device", "cpu"]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["teacher", "student 4x alone", "student 4x + kd", "student 4x + ofd", "student 4x + srrl"]
    parameters = [count for count, _ in found.values()]
    plain = shapeshift.count_parameters(WideResNet(16, 0.5, in_channels=1))
    assert parameters[0] == plain
    assert all(3.9 * plain < count <= 4 * plain for count in parameters[1:])
    assert len(set(parameters[1:])) == 1
    assert all(wrong < 40 for _, wrong in found.values())


TIMM = ["--teacher", "test_resnet", "--student", "test_resnet", "--device", "cpu", "--data", "digits"]


def test_the_timm_script_prints_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--budget", "50%", "--method", "kd", "--epochs", "2", "--lr", "1e-2", "--train-size", "800"]
    arguments += ["--mixup", "0", "--smoothing", "0", "--ema-decay", "0.9"]
    assert timm_script.main([*TIMM, *arguments]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["teacher", "student 50% alone", "student 50% + kd"]
    assert found["student 50% + kd"][0] <= 0.5 * found["teacher"][0]
    assert all(wrong < 70 for _, wrong in found.values())  # of ten classes, 90 is chance


def test_the_timm_script_takes_timms_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--opt",
        "lamb",
        "--sched",
        "poly",
        "--cutmix",
        "0.5",
        "--ema-decay",
        "0.5",
        "--amp",
        "--batch-size",
        "16",
    ]
    assert timm_script.main([*TIMM, *options, "--method", "srrl", "--epochs", "1", "--train-size", "32"]) == 0
    assert list(rows(capsys.readouterr().out)) == ["teacher", "student alone", "student + srrl"]


@pytest.mark.parametrize("arguments", [["--batch-size", "31"], ["--train-size", "30"]])
def test_the_timm_script_refuses_what_mixup_cannot_pair(arguments: list[str]) -> None:
    with pytest.raises(shapeshift.ConfigError, match="Mixup pairs images"):
        timm_script.main(arguments)


def test_the_text_script_prints_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "4", "--train-size", "480", "--batch-size", "16", "--lr", "4e-3", "--device", "cpu"]
    assert text_script.main([*arguments, "--teacher-size", "32", "--student-size", "16", "--method", "srrl"]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["teacher", "student alone", "student + srrl"]
    assert found["teacher"][1] < 75  # of ten classes, 84 is the share that the most frequent one gets wrong


def test_the_text_script_compresses_and_takes_half_precision(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "1", "--train-size", "32", "--bf16", "--budget", "75%", "--device", "cpu"]
    assert text_script.main([*arguments, "--teacher-size", "16", "--student-size", "16", "--method", "srrl"]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["teacher", "student 75% alone", "student 75% + srrl"]
    assert found["student 75% + srrl"][0] <= 0.75 * found["teacher"][0]


@pytest.mark.parametrize("main", [plain_script.main, timm_script.main, text_script.main])
def test_every_script_explains_itself(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    for option in ("--method", "--budget", "--epochs", "--seed", "--device", "python -m shapeshift.experiments."):
        assert option in printed


def test_passages_are_the_text_of_their_modules() -> None:
    training, test = passages(length=16, vocabulary=100)
    assert training.tokens.shape == (len(training.labels), 16)
    assert len(test.labels) / len(training.labels) == pytest.approx(0.25, abs=0.01)
    for part in (training, test):
        assert set(part.labels.tolist()) == set(range(len(MODULES)))
        assert bool((part.tokens[:, 0] == START).all())
        assert torch.equal(part.mask == 0, part.tokens == PADDING)
        assert UNKNOWN in part.tokens
    # The most frequent words come first, and there are as many as were asked for.
    counts = training.tokens.flatten().bincount()
    assert len(counts) == 100 == training.vocabulary
    assert counts[3:13].sum() > counts[-10:].sum()
    again, _ = passages(length=16, vocabulary=100)
    assert torch.equal(again.tokens, training.tokens)
    assert training.labels[:100].unique().numel() > 5
    words = passages(length=8, vocabulary=10**6)[0]
    assert UNKNOWN not in words.tokens


def test_passages_refuse_what_cannot_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(shapeshift.ConfigError, match="length=1"):
        passages(length=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(loader=None))
    with pytest.raises(shapeshift.DataError, match="'argparse'"):
        text.passages()


def test_a_distilled_step_is_the_sum_of_both_losses() -> None:
    training, _ = DIGITS
    recipe = Recipe(epochs=1, batch_size=len(training.labels), weight_decay=0.0, learning_rate=1e-2)
    student, expected = network(0.5, seed=1), network(0.5, seed=1)
    train(student, training, recipe, seed=0, distiller=DISTILLERS["kd"](network(1, seed=0), student))
    order = torch.randperm(len(training.labels), generator=torch.Generator().manual_seed(0))
    x, y = training.images[order], training.labels[order]
    distiller = DISTILLERS["kd"](network(1, seed=0), expected)
    optimizer = torch.optim.SGD(expected.parameters(), 1e-2, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=1)
    (F.cross_entropy(expected(x), y) + distiller(x, y)).backward()
    optimizer.step()
    assert schedule.last_epoch == 0
    assert_close(list(student.parameters()), list(expected.parameters()), "identical")
