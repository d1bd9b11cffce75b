"""The command line, called as a function and as a process."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers

import shapeshift
from shapeshift.experiments.command_line import main as cli
from shapeshift.generators import GENERATORS
from shapeshift.integrations import model_names
from shapeshift.mappings import MAPPINGS
from shapeshift.upsamplers import UPSAMPLERS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    command = [sys.executable, "-m", "shapeshift.experiments.command_line", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run ``inspect --json`` in this process, and read what it prints."""
    assert cli.main(["inspect", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_inspect_shows_what_compress_does(capsys: pytest.CaptureFixture[str]) -> None:
    shown = inspect(capsys, "resnet18", "--budget", "25%")
    done = shapeshift.report(shapeshift.compress(timm.create_model("resnet18"), "25%")).as_dict()
    assert {key: value for key, value in shown.items() if key != "checkpoint_bytes"} == {
        key: value for key, value in done.items() if key != "checkpoint_bytes"
    }


@pytest.mark.parametrize(
    ("option", "registry"), [("mapping", MAPPINGS), ("combine", GENERATORS), ("upsample", UPSAMPLERS)]
)
def test_the_choices_are_those_of_the_registries(
    option: str, registry: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for choice in registry:
        shown = inspect(capsys, "resnet18", "--budget", "30%", f"--{option}", choice)
        plan = shapeshift.plan_compression(timm.create_model("resnet18"), "30%", **{option: choice})
        assert len(shown["groups"]) == len(plan.groups)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["inspect", "resnet18", "--budget", "30%", f"--{option}", "magic"])
    assert exit_.value.code == 2
    assert "invalid choice: 'magic'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("300000", 300_000),
        ("300k", 300_000),
        ("1.5M", 1_500_000),
        ("0.25", 0.25),
        (".25", 0.25),
        ("25%", 0.25),
        ("2x", 2.0),
    ],
)
def test_a_budget_is_read_as_in_python(budget: str, expected: float, capsys: pytest.CaptureFixture[str]) -> None:
    shown = inspect(capsys, "resnet10t", "--budget", budget)
    allowed = expected if isinstance(expected, int) else int(expected * shown["dense"])
    assert shown["budget"] == allowed
    assert 0.99 * allowed <= shown["parameters"] <= allowed


def test_include_exclude_and_max_templates_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    shown = inspect(capsys, "resnet18", "--budget", "80%", "--exclude", "fc", "layer1", "--max-templates", "1")
    names = {weight["name"] for group in shown["groups"] for weight in group["weights"]}
    assert "layer2.0.conv1.weight" in names
    assert not any(name.startswith(("fc", "layer1")) for name in names)
    assert {tuple(group["templates"]) for group in shown["groups"]} == {(1, 1)}
    shown = inspect(capsys, "resnet18", "--budget", "80%", "--include", "layer4")
    names = {weight["name"] for group in shown["groups"] for weight in group["weights"]}
    assert all(name.startswith("layer4") for name in names)


def test_the_table_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "mapping.png"
    assert cli.main(["inspect", "resnet18", "--budget", "25%", "--mapping", "shape", "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("resnet18 (ResNet)\n")
    assert "512x512x3x3" in printed
    assert "11,689,512 parameters before, 2,922,378 after (25.0%)" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_a_model_type_of_transformers(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = inspect(capsys, kind, "--budget", "25%")
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind))
    assert shown["dense"] == shapeshift.count_parameters(model)


def test_a_configuration_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(tmp_path)
    model = transformers.GPT2LMHeadModel(config)
    for place in (tmp_path, tmp_path / "config.json"):
        shown = inspect(capsys, str(place), "--budget", "50%")
        # Tied on the meta device as elsewhere: the head is no weight of its own.
        assert shown["dense"] == shapeshift.count_parameters(model)
        assert type(model_names.build_on_meta(str(place))) is transformers.GPT2LMHeadModel


def test_large_models_are_planned_without_their_weights() -> None:
    script = (
        "import re, sys; from pathlib import Path; from shapeshift.experiments.command_line.main import main;"
        "status = [main(['inspect', name, '--budget', '10%']) for name in sys.argv[1:]];"
        # Not ru_maxrss: a process starts with that of the one that started it.
        "print(status, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", script, "vit_large_patch16_224", "llama"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "304,326,632 parameters before" in result.stdout, result.stderr
    assert "6,607,343,616 parameters before" in result.stdout
    status, _, peak = result.stdout.splitlines()[-1].rpartition(" ")
    assert status == "[0, 0]"
    assert int(peak) < 2 * 2**20  # kilobytes; the weights would take 28 million


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (1, ["resnet51", "--budget", "25%"], r"called 'resnet51'; did you mean .*resnet50"),
        (1, ["bertt", "--budget", "25%"], r"called 'bertt'; did you mean bert"),
        (1, ["timm:bert", "--budget", "25%"], r"no model of timm is called 'bert'"),
        (1, ["xyzzy" * 5, "--budget", "25%"], r"no model of timm or transformers is called"),
        (1, ["./nowhere", "--budget", "25%"], r"nowhere cannot be read as the configuration"),
        (1, ["nowhere.json", "--budget", "25%"], r"nowhere.json cannot be read as the configuration"),
        (2, ["resnet18", "--budget", "3"], r"a budget of 3 parameters cannot be met: the least"),
        (2, ["resnet18", "--budget", "lots"], r"cannot read the budget 'lots'"),
        (
            2,
            ["resnet18", "--budget", "25%", "--exclude", "lyer1"],
            r"exclude: 'lyer1' matches no .* did you mean 'layer1",
        ),
        (1, ["resnet18", "--budget", "25%", "--plot", "no/where.png"], r"cannot be written to no/where.png"),
        (1, ["resnet18", "--budget", "25%", "--plot", "picture.xyz"], r"cannot be written to picture.xyz.*png"),
        (2, ["resnet18", "--budget", "25%", "--max-templates", "0"], r"max_templates must be"),
    ],
)
def test_what_the_user_can_put_right(
    status: int, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("shapeshift: error: ")
    assert re.search(message, captured.err)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_type": "xyzzy"}', '{"format": "shapeshift"}'])
def test_a_file_that_is_no_configuration(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(content)
    assert cli.main(["inspect", str(tmp_path), "--budget", "25%"]) == 1
    assert "config.json" in capsys.readouterr().err


def test_a_name_of_two_models_is_to_be_made_unique(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*timm.list_models(), "bert"]
    monkeypatch.setattr(timm, "list_models", lambda: names)
    assert cli.main(["inspect", "bert", "--budget", "25%"]) == 1
    assert "say timm:bert or transformers:bert" in capsys.readouterr().err
    assert inspect(capsys, "transformers:bert", "--budget", "25%")["dense"] == 109_482_240


@pytest.mark.parametrize(
    ("absent", "name", "message"),
    [
        (["timm"], "timm:resnet18", r"a model of timm needs .* pip install \"shapeshift\[timm\]\""),
        (
            ["timm"],
            "resnet18",
            r"no model of transformers is called .*\(timm is not installed: pip install \"shapeshift\[timm\]\"",
        ),
        (["transformers"], "./config.json", r"a model of transformers needs .* \"shapeshift\[transformers\]\""),
        (["timm", "transformers"], "resnet18", r"pip install \"shapeshift\[timm,transformers\]\""),
    ],
)
def test_a_missing_extra_is_named(
    absent: list[str], name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *rest: None if module in absent else find_spec(module, *rest)
    )
    assert cli.main(["inspect", name, "--budget", "25%"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_the_demo_gets_its_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from shapeshift.experiments import demo

    received: list[Any] = []
    monkeypatch.setattr(demo, "main", lambda arguments: received.append(arguments) or 7)
    assert cli.main(["demo", "--epochs", "1", "--help"]) == 7
    assert received == [["--epochs", "1", "--help"]]

    monkeypatch.setitem(sys.modules, "shapeshift.experiments.demo", None)
    monkeypatch.delattr("shapeshift.experiments.demo", raising=False)
    assert cli.main(["demo"]) == 1
    assert 'pip install "shapeshift[demo]"' in capsys.readouterr().err


def test_help_shows_examples_and_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 0
        return capsys.readouterr().out

    assert printed("--version") == f"shapeshift {shapeshift.__version__}\n"
    assert "shapeshift inspect resnet50 --budget 25%" in printed("--help")
    for registry in (MAPPINGS, GENERATORS, UPSAMPLERS):
        assert "{" + ",".join(registry) + "}" in printed("inspect", "--help")


@pytest.mark.parametrize("arguments", [(), ("inspect", "resnet18"), ("inspect", "--budget", "1"), ("expect",)])
def test_what_is_missing_is_said(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: shapeshift" in capsys.readouterr().err


def test_the_command_as_a_process() -> None:
    shown = run("inspect", "resnet18", "--budget", "25%")
    assert shown.returncode == 0
    assert "2,922,378 after (25.0%)" in shown.stdout

    shown = run("inspect", "resnet51", "--budget", "25%")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "did you mean" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_what_is_not_asked_for_is_not_imported() -> None:
    script = (
        "import sys, shapeshift.experiments.command_line.main;"
        "print([name for name in ('timm', 'transformers', 'rich', 'matplotlib', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.stdout == "[]\n", result.stderr
