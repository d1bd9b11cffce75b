"""The decoder of seven billion parameters, in a tiny form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import seven_billion
from benchmarks.seven_billion import main, render

TINY = ["hidden_size=32", "intermediate_size=64", "num_hidden_layers=2", "num_attention_heads=4", "vocab_size=100"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_it_is_measured_and_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(measure: str, settings: dict[str, object], folder: str) -> object:
        main(["--measure", measure, json.dumps(settings), folder])
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(seven_billion, "_in_own_process", measured)
    path = tmp_path / "tiny.json"
    shape = ["--shape", *TINY, "num_key_value_heads=4", "--option", "upsample=repeat", "--rate", "0.01"]
    main([*shape, "--budget", "20%", "--steps", "3", "--tokens", "12", "--output", str(path)])
    content = json.loads(path.read_text())
    assert content["settings"]["options"] == {"upsample": "repeat"}
    training, loading = content["results"]["train"], content["results"]["load"]
    assert training["parameters"] <= 0.2 * training["dense_parameters"]
    assert training["losses"] == sorted(training["losses"], reverse=True)
    assert len(training["tokens"]) == 8
    assert loading["same_tokens"]
    assert loading["largest_difference_of_logits"] < 1e-5
    assert path.with_suffix(".md").read_text() == render(content)
    assert "| step 3 " in render(content)


def test_a_measurement_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> object:
        commands.append(command)
        return type("Finished", (), {"stdout": 'a line of a library\n{"found": 1}\n'})

    monkeypatch.setattr("subprocess.run", run)
    assert seven_billion._in_own_process("load", {"seed": 0}, str(tmp_path)) == {"found": 1}
    assert commands[0][2:] == ["benchmarks.seven_billion", "--measure", "load", '{"seed": 0}', str(tmp_path)]
