"""A decoder of seven billion parameters that is built, trained and saved in a small part of its memory.

    python -m benchmarks.seven_billion                                      # writes a JSON file and a table
    python -m benchmarks.seven_billion --option recompute=true              # with a field of shapeshift.Config
    python -m benchmarks.seven_billion --shape hidden_size=512 --steps 2    # another shape, with --output

A first process builds a decoder of Llama's shape with `shapeshift.build`, trains it on one batch that it sees again and
again, generates tokens and saves the model. A second one loads it, and generates the same tokens. The peak of memory is
the largest resident set of a process, with and without what it has before the model is built.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.own_process import measured_alone, resident_bytes
from benchmarks.results import RESULTS, write_json

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
NEW_TOKENS = 8
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seven_billion", description=__doc__.split("\n")[0])
    parser.add_argument("--budget", default="0.5%")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="the length of the one sequence of the batch")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adamw")
    parser.add_argument("--rate", type=float, default=1e-3, help="the learning rate")
    parser.add_argument("--shape", nargs="+", type=_field, default=[], metavar="FIELD=VALUE", help="of LlamaConfig")
    parser.add_argument("--option", nargs="+", type=_field, default=[], metavar="FIELD=VALUE", help="of Config")
    parser.add_argument("--output", type=Path, default=RESULTS / "seven_billion_cpu.json", help="the JSON file")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        measure, settings, folder = arguments.measure
        print(json.dumps(_MEASURES[measure](json.loads(settings), Path(folder))))
        return

    settings = {name: getattr(arguments, name) for name in ("budget", "steps", "tokens", "optimizer", "rate")}
    settings |= {"shape": {**SHAPE, **dict(arguments.shape)}, "options": dict(arguments.option), "seed": 0}
    with tempfile.TemporaryDirectory() as folder:
        results = {measure: _in_own_process(measure, settings, folder) for measure in _MEASURES}
    content = {"machine": describe("cpu"), "settings": settings, "results": results}
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def _field(text: str) -> tuple[str, Any]:
    """Read a field's name and its value, which is JSON or a word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _in_own_process(measure: str, settings: dict[str, Any], folder: str) -> Any:
    return measured_alone("seven_billion", "--measure", measure, json.dumps(settings), folder)


class _Stages:
    """The seconds of each stage, and the peak of memory at its end."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {"start": {"seconds": 0.0, "peak_bytes": resident_bytes("VmHWM")}}

    def run(self, name: str, stage: Callable[[], Any]) -> Any:
        """Run a stage and return what it returns."""
        start = time.perf_counter()
        result = stage()
        self.found[name] = {"seconds": time.perf_counter() - start, "peak_bytes": resident_bytes("VmHWM")}
        return result


def measure_training(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Build the decoder, train it, let it generate, and save it."""
    torch.manual_seed(settings["seed"])
    config = LlamaConfig(**settings["shape"])
    stages = _Stages()
    model: LlamaForCausalLM = stages.run(
        "build", lambda: shapeshift.build(lambda: LlamaForCausalLM(config), settings["budget"], **settings["options"])
    )
    optimizer = OPTIMIZERS[settings["optimizer"]](shapeshift.parameter_groups(model, 0.0), lr=settings["rate"])
    tokens = _tokens(settings)

    def step() -> float:
        optimizer.zero_grad()
        loss: Tensor = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [stages.run(f"step {number}", step) for number in range(1, settings["steps"] + 1)]
    report = shapeshift.report(model)
    stages.run("save", lambda: shapeshift.save(model, folder / "model"))
    outputs = stages.run("generate", lambda: _outputs(model, settings))
    torch.save(outputs, folder / "outputs.pt")
    return {
        "dense_parameters": report.dense,
        "parameters": shapeshift.count_parameters(model),
        "checkpoint_bytes": sum(file.stat().st_size for file in (folder / "model").iterdir()),
        "losses": losses,
        "tokens": outputs["tokens"].tolist(),
        "stages": stages.found,
    }


def measure_loading(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load the decoder that was saved, and compare what it generates."""
    config = LlamaConfig(**settings["shape"])
    stages = _Stages()

    def load() -> LlamaForCausalLM:
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        return shapeshift.load(folder / "model", model)

    model = stages.run("load", load)
    outputs = stages.run("generate", lambda: _outputs(model, settings))
    expected = torch.load(folder / "outputs.pt")
    return {
        "same_tokens": torch.equal(outputs["tokens"], expected["tokens"]),
        "largest_difference_of_logits": (outputs["logits"] - expected["logits"]).abs().max().item(),
        "stages": stages.found,
    }


def _tokens(settings: dict[str, Any]) -> Tensor:
    generator = torch.Generator().manual_seed(settings["seed"])
    return torch.randint(3, settings["shape"]["vocab_size"], (1, settings["tokens"]), generator=generator)


@torch.no_grad()
def _outputs(model: LlamaForCausalLM, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tokens with which the model goes on after a few of the batch, and its logits for these few."""
    model.eval()
    prompt = _tokens(settings)[:, :NEW_TOKENS]
    options = {"do_sample": False, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)  # type: ignore[operator]
    return {"tokens": tokens[0, prompt.shape[1] :], "logits": model(input_ids=prompt).logits}


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    settings, results = content["settings"], content["results"]
    training, loading = results["train"], results["load"]
    rows = []
    for title, found in (("", training), (" in a fresh process", loading)):
        start = found["stages"]["start"]["peak_bytes"]
        for name, stage in found["stages"].items():
            if name != "start":
                peak = stage["peak_bytes"]
                rows.append(
                    [
                        name + title,
                        f"{stage['seconds']:,.1f} s",
                        f"{peak / 2**20:,.0f}",
                        f"{(peak - start) / 2**20:,.0f}",
                    ]
                )
    losses = ", ".join(f"{loss:.2f}" for loss in training["losses"])
    options = "".join(f", {name}={value!r}" for name, value in settings["options"].items())
    return (
        f"{made_by('seven_billion', content['machine'])}: a decoder of Llama's shape with "
        f"{training['dense_parameters'] / 1e9:,.2f} billion parameters "
        f"({training['dense_parameters'] * 4 / 1e9:,.1f} GB in float32), budget {settings['budget']}{options}, "
        f"{settings['optimizer']}, one sequence of {settings['tokens']} tokens.\n\n"
        f"{markdown_table(['stage', 'time', 'peak MiB so far', 'without those before'], rows)}\n\n"
        f"It has {training['parameters']:,} parameters, and its checkpoint {training['checkpoint_bytes'] / 1e6:,.1f} "
        f"MB. The losses are {losses}. The loaded model generates "
        f"{'the same' if loading['same_tokens'] else 'other'} {len(training['tokens'])} tokens; its logits differ by "
        f"{loading['largest_difference_of_logits']:.1e} at most.\n"
    )


_MEASURES: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
    "train": measure_training,
    "load": measure_loading,
}

if __name__ == "__main__":
    main()
