"""The sweep over models of timm and transformers: what it asks, what it keeps, and the page made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from benchmarks.coverage import report, sweep, timm_models, transformers_models
from benchmarks.coverage.__main__ import main
from benchmarks.coverage.check import Attempt, check
from benchmarks.coverage.small_configs import SCALES, Scale, small_config
from benchmarks.coverage.sweep import LIBRARIES, Limits

LIMITS = Limits(seconds=100, gigabytes=8)


def last(attempts: Iterator[Attempt] | list[Attempt]) -> dict[str, Any]:
    *_, found = check(attempts)
    return found


def attempt(build: Callable[[], nn.Module], description: str = "small") -> Attempt:
    return Attempt(description, build, lambda model: model(torch.ones(2, 16)), most=10_000)


class Broken(nn.Sequential):
    """A model that works while it is dense, and then breaks in a way that a flag says."""

    def __init__(self, how: str) -> None:
        super().__init__(nn.Linear(16, 16), nn.Linear(16, 16))
        self.how = how
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if not shapeshift.is_compressed(self):
            return super().forward(x) * (2 if self.how == "materialize" and self.calls > 3 else 1)
        if self.how == "error":
            raise RuntimeError("no compressed models, please\nwith details")
        if self.how == "nan":
            return super().forward(x) * torch.nan
        if self.how == "shape":
            return super().forward(x)[:1]
        if self.how == "gradient" and torch.is_grad_enabled():
            return x * torch.ones(1, requires_grad=True)
        return super().forward(x)


def test_a_model_that_passes_is_described() -> None:
    found = last([attempt(lambda: Broken("never"))])
    assert found == {"outcome": "passed", "attempt": "small", "dense": 2 * 16 * 17, "compressed": 2 * 16 * 17 // 4}


@pytest.mark.parametrize(
    ("how", "stage", "reason"),
    [
        ("error", "forward", "RuntimeError: no compressed models, please"),
        ("nan", "forward", "the outputs are not numbers"),
        ("shape", "forward", "the outputs have other shapes than those of the dense model"),
        ("gradient", "backward", "the store.0 that 0.weight is made from has no gradient"),
        ("materialize", "materialize", "the outputs are not the compressed model's: 1.0e+00 away"),
    ],
)
def test_a_compressed_model_that_breaks_is_found_out(how: str, stage: str, reason: str) -> None:
    found = last([attempt(lambda: Broken(how))])
    assert (found["outcome"], found["stage"], found["reason"]) == ("failed", stage, reason)


def test_a_model_that_cannot_be_compressed_fails_to() -> None:
    found = last([attempt(lambda: nn.LayerNorm(16))])
    assert (found["outcome"], found["stage"]) == ("failed", "compress")
    assert found["reason"].startswith("ModelError: LayerNorm has no weight")


def test_the_first_attempt_that_runs_dense_is_taken() -> None:
    too_narrow = attempt(lambda: nn.Linear(8, 8), "narrow")
    too_large = attempt(lambda: nn.Linear(16, 1000), "large")
    fits = attempt(lambda: nn.Linear(16, 8), "fits")
    assert last([too_narrow, fits])["attempt"] == "fits"
    # What follows one that is too large is not tried, and the reason is that of the first.
    found = last([too_narrow, too_large, fits])
    assert found["outcome"] == "not run"
    assert "shapes cannot be multiplied (2x16 and 8x8)" in found["reason"]
    assert last([too_large]) == {"outcome": "not run", "reason": "more than 10,000 parameters"}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "levit_128s"])
def test_models_of_timm_run(name: str) -> None:
    assert name in timm_models.names()
    found = last(timm_models.attempts(name))
    assert (found["outcome"], found["attempt"]) == ("passed", "64 px")


@pytest.mark.parametrize(
    "name",
    [
        "albert/AlbertForQuestionAnswering",
        "bart/BartForConditionalGeneration",
        "distilbert/DistilBertForMaskedLM",
        "gpt2/GPT2LMHeadModel",
        "vit/ViTForImageClassification",
    ],
)
def test_architectures_of_transformers_run_when_they_are_small(name: str) -> None:
    assert name in transformers_models.names()
    found = last(transformers_models.attempts(name))
    assert (found["outcome"], found["attempt"]) == ("passed", str(SCALES[0]))
    assert found["dense"] < 10_000_000


def test_a_configuration_is_made_small_with_its_parts() -> None:
    config = small_config("clip", Scale(8, 4, 512))
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (64, 256, 4)
    assert (vision.hidden_size, vision.num_attention_heads, vision.image_size) == (96, 12, 224)
    assert text.vocab_size == 512
    assert 0 <= text.eos_token_id < 256
    assert config.projection_dim == 64


def test_a_scale_of_one_is_the_default_configuration() -> None:
    for model_type in ("llama", "clip", "swin"):
        whole = small_config(model_type, Scale(1, 1000, None))
        assert whole.to_dict() == type(whole)().to_dict()


def test_a_sweep_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def passes(library: str, name: str, limits: Limits) -> dict[str, Any]:
        checked.append(name)
        return {"outcome": "passed", "seconds": 1.0}

    monkeypatch.setattr(sweep, "check_apart", passes)
    path = tmp_path / "coverage_timm.json"

    def run(*models: str, again: tuple[str, ...] = ()) -> list[str]:
        checked.clear()
        found = sweep.sweep("timm", path, LIMITS, models=models, again=again)
        assert json.loads(path.read_text()) == found
        return sorted(checked)

    assert run("resnet18", "resnet34") == ["resnet18", "resnet34"]
    assert run("resnet18", "resnet50") == ["resnet50"]
    assert run("resnet34", "resnet18", again=("resnet34",)) == ["resnet34"]

    kept = json.loads(path.read_text())
    kept["machine"]["versions"]["timm"] = "0.9"
    path.write_text(json.dumps(kept))
    assert run("resnet18") == ["resnet18"]
    assert list(json.loads(path.read_text())["models"]) == ["resnet18"]


def test_a_model_has_a_process_of_its_own() -> None:
    found = sweep.check_apart("timm", "test_vit", LIMITS)
    assert (found["outcome"], found["attempt"]) == ("passed", "64 px")
    assert found["seconds"] > 0


def test_a_process_that_takes_too_long_is_ended() -> None:
    found = sweep.check_apart("timm", "test_vit", Limits(0, 8))
    assert found == {"outcome": "not run", "reason": "takes more than 0 seconds or 8 GiB", "seconds": 0}


def test_a_process_that_takes_too_much_memory_is_not_a_failure() -> None:
    found = sweep.check_apart("timm", "test_vit", Limits(100, 0.01))
    assert found["outcome"] == "not run"


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A folder with a result of each kind."""
    machine = {"processor": "a processor", "versions": {"timm": "1.0", "transformers": "5.0", "torch": "2.15"}}
    models = {
        "good": {"outcome": "passed", "dense": 8, "compressed": 2, "attempt": "64 px", "seconds": 1800.0},
        "bad": {"outcome": "failed", "stage": "forward", "reason": "a | b", "attempt": "64 px", "seconds": 1800.0},
        "large": {"outcome": "not run", "reason": "more than 100 parameters", "seconds": 0.0},
        "larger": {"outcome": "not run", "reason": "more than 100 parameters", "seconds": 0.0},
    }
    content = {"library": "timm", "budget": "25%", "machine": machine, "models": models}
    (tmp_path / "coverage_timm.json").write_text(json.dumps(content))
    content = {**content, "library": "transformers", "models": {"good": models["good"]}}
    (tmp_path / "coverage_transformers.json").write_text(json.dumps(content))
    return tmp_path


def test_the_page_counts_and_lists(swept: Path) -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.page(swept).splitlines()]
    assert ["timm 1.0", "4 of 4", "2", "1", "50.0%", "1"] in lines
    assert ["transformers 5.0", "1 of 1", "1", "1", "100.0%", "0"] in lines
    assert ["`bad`", "forward", "`` a / b ``"] in lines
    assert ["`` more than 100 parameters ``", "2", "`large`, `larger`"] in lines
    assert "in 1.0 hours" in report.page(swept)


def test_the_command_sweeps_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    main(["--libraries", "timm", "--models", "vit_giant_patch14_dinov2", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "coverage_timm.json").read_text())["models"]["vit_giant_patch14_dinov2"]
    assert (found["outcome"], found["reason"]) == ("not run", "more than 100,000,000 parameters")
    assert report.PAGE.read_text(encoding="utf-8") == page


def test_the_page_in_the_documentation_is_made_from_the_results() -> None:
    assert report.PAGE.read_text(encoding="utf-8") == report.page()


@pytest.mark.parametrize("library", LIBRARIES)
def test_nearly_all_models_pass(library: str) -> None:
    content = json.loads(report.result_file(library).read_text(encoding="utf-8"))
    outcomes = [found["outcome"] for found in content["models"].values()]
    assert len(outcomes) == content["names"]
    assert outcomes.count("passed") >= 0.98 * (outcomes.count("passed") + outcomes.count("failed"))
    assert outcomes.count("passed") > 0.5 * len(outcomes)
