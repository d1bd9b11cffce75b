"""The commands that read and write models: what they do is what the library does, and errors are one line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import shapeshift
import shapeshift.integrations.timm
from shapeshift.experiments.command_line import main as cli
from shapeshift.experiments.command_line.options import add_config, chosen_config
from shapeshift.experiments.command_line.sources import open_model
from shapeshift.experiments.data.wordpiece import train_wordpiece
from tests.tolerances import assert_close

# One of timm's names after an import of the integration, and what makes it small.
NETWORK, SIZES = "wrn_28_10", {"depth": 10, "width": 0.25, "num_classes": 2}
NAMED = [
    NETWORK,
    "--weights",
    "images.safetensors",
    "--model-args",
    *(f"{key}={value}" for key, value in SIZES.items()),
]
WORDS = "a folder of images or a file of texts is read in batches and the model makes scores of each of them . "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a language model, a text, the weights of an image classifier, and images."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    (folder / "texts.txt").write_text(WORDS * 20)
    tokenizer = train_wordpiece([WORDS], 60)
    size = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(folder / "text-model")
    tokenizer.save_pretrained(folder / "text-model")
    save_file(timm.create_model(NETWORK, **SIZES).state_dict(), folder / "images.safetensors")
    for label, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40 + number, 40), colour).save(folder / "images" / label / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command with ``--json``, and read what it prints."""
    status = cli.main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    result: dict[str, Any] = json.loads(captured.out)
    return result


def windows(length: int) -> torch.Tensor:
    """Return the windows of the text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained("text-model")
    text = Path("texts.txt").read_text()
    cut = tokenizer(text, truncation=True, max_length=length, return_overflowing_tokens=True)["input_ids"]
    return torch.tensor([window for window in cut if len(window) == length])


def perplexity(model: Any, tokens: torch.Tensor) -> float:
    """Return the perplexity by the model's own loss."""
    with torch.no_grad():
        return math.exp(model.eval()(input_ids=tokens, labels=tokens).loss.item())


def test_a_folder_of_transformers_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, plain = str(tmp_path / "small"), str(tmp_path / "plain")
    options = ["--calibration", "texts.txt", "--length", "16", "--seed", "0", "--mapping", "shape"]
    shown = run(capsys, "compress", "text-model", "--budget", "50%", *options, "--output", small)

    expected = AutoModelForCausalLM.from_pretrained("text-model")
    batches = [{"input_ids": tokens} for tokens in windows(16).split(8)]
    shapeshift.compress(expected, "50%", calibration=batches, seed=0, mapping="shape", init="fit")
    report = shapeshift.report(expected).as_dict()
    assert shown == {"output": small, **report}
    tokens = windows(32)
    loaded = AutoModelForCausalLM.from_pretrained(small)
    assert_close(loaded(tokens).logits, expected.eval()(tokens).logits, "identical")

    assert run(capsys, "report", small) == report
    written = run(capsys, "materialize", small, "--output", plain)
    assert written["bytes"] == (tmp_path / "plain" / "model.safetensors").stat().st_size
    assert not shapeshift.is_compressed(AutoModelForCausalLM.from_pretrained(plain))
    assert_close(AutoModelForCausalLM.from_pretrained(plain)(tokens).logits, expected(tokens).logits, "moved")
    assert {file.name for file in Path(plain).iterdir()} == {file.name for file in Path("text-model").iterdir()}

    found = run(capsys, "evaluate", small, "--against", "text-model", "--data", "texts.txt")
    dense = AutoModelForCausalLM.from_pretrained("text-model")
    assert found["models"][small]["perplexity"] == pytest.approx(perplexity(expected, tokens), rel=1e-5)
    assert found["models"]["text-model"]["perplexity"] == pytest.approx(perplexity(dense, tokens), rel=1e-5)
    with torch.no_grad():
        one, other = expected(tokens).logits, dense.eval()(tokens).logits
    assert found["comparison"]["agreement"] == pytest.approx(
        (one.argmax(-1) == other.argmax(-1)).double().mean().item()
    )
    assert found["comparison"]["output_error"] == pytest.approx(((one - other).norm() / other.norm()).item(), rel=1e-4)
    assert found["models"]["text-model"]["bytes"] == Path("text-model/model.safetensors").stat().st_size


def test_a_model_of_timm_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, plain = str(tmp_path / "small"), str(tmp_path / "plain")
    shown = run(
        capsys,
        "compress",
        *NAMED,
        "--budget",
        "30%",
        "--max-templates",
        "1",
        "--calibration",
        "images",
        "--seed",
        "0",
        "--output",
        small,
    )
    dense = timm.create_model(NETWORK, **SIZES)
    dense.load_state_dict(load_file("images.safetensors"))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(dense), is_training=False)
    x = torch.stack([transform(Image.open(file)) for file in sorted(Path("images").rglob("*.png"))])
    labels = torch.tensor([0, 0, 1, 1])
    reference = dense.eval()(x)
    expected = shapeshift.compress(dense, "30%", max_templates=1, calibration=[x], seed=0, init="fit").eval()
    assert shown["groups"] == shapeshift.report(expected).as_dict()["groups"]
    loaded = shapeshift.load(small, timm.create_model(NETWORK, **SIZES)).eval()
    assert_close(loaded(x), expected(x), "identical")

    run(capsys, "materialize", small, "--output", plain)
    assert_close(timm.create_model(f"local-dir:{plain}", pretrained=True).eval()(x), expected(x), "moved")
    found = run(capsys, "evaluate", small, "--against", plain, "--data", "images")
    assert found["comparison"]["agreement"] == 1
    assert found["models"][small]["top1"] == (expected(x).argmax(1) == labels).double().mean().item()
    against = ["--against", *NAMED]
    found = run(capsys, "evaluate", small, *against, "--data", "images", "--samples", "4")
    assert found["models"][NETWORK]["bytes"] == Path("images.safetensors").stat().st_size
    error = ((expected(x) - reference).norm() / reference.norm()).item()
    assert found["comparison"]["output_error"] == pytest.approx(error, rel=1e-3)


def test_a_budget_in_bytes_holds_for_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    shown = run(capsys, "compress", "text-model", "--budget", "20kB", "--store", "int8", "--output", str(small))
    size = sum((small / name).stat().st_size for name in ("model.safetensors", "shapeshift.json"))
    assert size == shown["checkpoint_bytes"] <= 20_000
    assert run(capsys, "report", str(small)) == {key: value for key, value in shown.items() if key != "output"}
    with pytest.raises(ValueError, match=r"call shapeshift\.load\(folder, model\)"):
        AutoModelForCausalLM.from_pretrained(small)
    found = run(capsys, "evaluate", str(small), "--against", "text-model", "--data", "texts.txt")
    assert found["models"][str(small)]["bytes"] == size


def test_tables_are_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = str(tmp_path / "small")
    assert cli.main(["compress", "text-model", "--budget", "50%", "--init", "random", "--output", small]) == 0
    assert capsys.readouterr().out.startswith(f"text-model -> {small}\n")
    page = tmp_path / "report.html"
    assert cli.main(["report", small, "--html", str(page)]) == 0
    assert "<td>transformer.h.0.attn.c_attn.weight</td><td>16 x 48</td>" in page.read_text()
    assert cli.main(["report", small, "--html", str(tmp_path / "none" / "report.html")]) == 1
    assert "report.html cannot be written" in capsys.readouterr().err
    assert cli.main(["report", small]) == 0
    assert re.search(r"^transformer.h.0.attn.c_attn.weight +16x48 .*not fitted$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["evaluate", small, "--against", "text-model", "--data", "texts.txt", "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^parameters .*\nbytes .*\nsamples / s .*\nperplexity .*\nthe same highest", shown, re.MULTILINE)
    assert cli.main(["materialize", small, "--output", str(tmp_path / "plain")]) == 0
    assert "GPT2LMHeadModel" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["text-model", NETWORK])
def test_weights_are_mapped_into_memory(name: str) -> None:
    given = ("images.safetensors", NAMED[4:]) if name == NETWORK else (None, ())
    model = open_model(name, *given).model
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".safetensors")]
    ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in lines]
    for parameter in model.parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges)


TEXT, IMAGES = ["text-model"], NAMED
SMALL = ["--budget", "50%", "--output", "out"]


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (1, ["compress", "nowhere", *SMALL], r"nowhere is no folder.*--weights"),
        (1, ["compress", "images", *SMALL], r"images/config.json does not exist"),
        (1, ["compress", "resnet19", "--weights", "images.safetensors", *SMALL], r"timm has no model 'resnet19'"),
        (1, ["compress", *IMAGES[:3], *SMALL], r"images.safetensors (lacks|has) "),
        (1, ["compress", *IMAGES[:4], *IMAGES[4:6], *SMALL], r"of shape \(2, \d+\).*--model-args"),
        (1, ["compress", NETWORK, "--weights", "texts.txt", *SMALL], r"cannot be opened: SafetensorError: "),
        (1, ["compress", *TEXT, "--budget", "50%", "--output", "images"], r"images exists and is not an empty folder"),
        (1, ["compress", *TEXT, "--calibration", "nothing.txt", *SMALL], r"nothing.txt does not exist"),
        (1, ["compress", *TEXT, "--calibration", "images.safetensors", *SMALL], r"cannot be read as a text in UTF-8"),
        (1, ["compress", *IMAGES, "--calibration", "texts.txt", *SMALL], r"a SmallWideResNet reads images"),
        (1, ["report", "text-model"], r"not compressed"),
        (1, ["materialize", "text-model", "--output", "out"], r"not compressed"),
        (2, ["compress", *TEXT, "--budget", "5", "--output", "out"], r"a budget of 5 parameters cannot be met"),
        (2, ["compress", *TEXT, "--combine", "avg", "--coefficients", "x", *SMALL], r"coefficients must be"),
        (2, ["compress", *TEXT, "--combine", "hypernetwork", *SMALL], r"cannot be fitted"),
        (2, ["compress", *TEXT, "--calibration", "texts.txt", "--samples", "0", *SMALL], r"must be at least 1"),
        (2, ["compress", *IMAGES[:4], "num_classes", *SMALL], r"'num_classes' is not KEY=VALUE"),
    ],
)
def test_errors_are_one_line_and_a_status(
    status: int, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"shapeshift: error: [^\n]+\n", captured.err)
    assert re.search(message, captured.err)
    assert not Path("out").exists()


def test_weights_that_a_folder_lacks_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AutoModelForCausalLM.from_pretrained("text-model").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["transformer.h.1.ln_1.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert cli.main(["compress", str(tmp_path), *SMALL]) == 1
    assert "lacks transformer.h.1.ln_1.bias of GPT2LMHeadModel" in capsys.readouterr().err


def test_a_folder_runs_its_own_code_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, marker = tmp_path / "own", tmp_path / "ran"
    folder.mkdir()
    (folder / "own.py").write_text(
        f"import pathlib, torch, transformers\npathlib.Path({str(marker)!r}).touch()\n"
        "class OwnConfig(transformers.PreTrainedConfig):\n    model_type = 'own_code'\n"
        "class Own(transformers.PreTrainedModel):\n    config_class = OwnConfig\n"
        "    def __init__(self, config):\n        super().__init__(config)\n"
        "        self.layer = torch.nn.Linear(32, 32)\n        self.post_init()\n"
        "    def forward(self, x):\n        return self.layer(x)\n"
    )
    fields = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own_code", "architectures": ["Own"], "auto_map": fields})
    )
    weights = {"layer.weight": torch.randn(32, 32), "layer.bias": torch.zeros(32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    arguments = ["compress", str(folder), "--budget", "80%", "--output", str(tmp_path / "small")]
    assert cli.main(arguments) == 1
    assert re.search(r"error: .* add --trust-remote-code to run it", capsys.readouterr().err)
    assert not marker.exists()
    assert run(capsys, *arguments, "--trust-remote-code")["dense"] == 32 * 33
    assert marker.exists()
    assert cli.main(["report", str(tmp_path / "small")]) == 1
    assert run(capsys, "report", str(tmp_path / "small"), "--trust-remote-code")["dense"] == 32 * 33


def test_every_field_of_config_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_config(parser)
    assert chosen_config(parser.parse_args([])) == shapeshift.Config()
    given = ["--mapping", "shape", "--max-templates", "3", "--exclude", "a", "b", "--seed", "1"]
    given += ["--recompute", "--store", "int8", "--ring-block", "8"]
    expected = shapeshift.Config(
        mapping="shape", max_templates=3, exclude=("a", "b"), seed=1, recompute=True, store="int8", ring_block=8
    )
    assert chosen_config(parser.parse_args(given)) == expected
    with pytest.raises(SystemExit):
        cli.main(["compress", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(shapeshift.Config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "How the shared parameters start." in text
    assert "(default: fit)" in text
