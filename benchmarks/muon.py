"""Muon against AdamW on a small language model, dense and compressed.

    python -m benchmarks.muon    # about 20 minutes on one thread; writes JSON and a table

A transformer of three blocks predicts the next byte of Python's own modules. Each model and optimizer has the learning
rate of its lowest loss on the first seed; the table has the bits per byte of held-out text over the others. Runs are
kept as they finish, and one that was kept is not repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from shapeshift.experiments.data.text import MODULES

RATES = (0.001, 0.003, 0.01)
WIDTH, BLOCKS, HEADS, CONTEXT, BATCH = 96, 3, 4, 64, 16
WEIGHT_DECAY = 0.1
HELD_OUT = 0.1

#: From the name of a model to its budget, None for the dense one, and its config.
MODELS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "dense": (None, {}),
    "wavg, 50%": ("50%", {}),
    "wavg, 30%": ("30%", {}),
    "ring, 50%": ("50%", {"combine": "ring"}),
    "ring, 30%": ("30%", {"combine": "ring"}),
}

OPTIMIZERS: dict[str, Callable[[nn.Module, float], Optimizer]] = {
    "AdamW": lambda model, rate: torch.optim.AdamW(shapeshift.parameter_groups(model, WEIGHT_DECAY), lr=rate),
    # Its update of a matrix has a root mean square of 0.2 rates, and AdamW's first ones have one of a whole rate.
    "Muon": lambda model, rate: shapeshift.Muon(
        model, 5 * rate, WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw", adamw_lr=rate
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.muon", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--steps", type=int, default=300, help="steps of each run (default: 300)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds at the chosen rate (default: 3)")
    parser.add_argument("--output", type=Path, default=RESULTS / "muon.json", help="the JSON file")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)
    settings = {"machine": describe("cpu"), "steps": arguments.steps}
    runs: dict[str, dict[str, float]] = {}
    if arguments.output.exists():
        kept = json.loads(arguments.output.read_text())
        if kept["steps"] == arguments.steps:
            runs = kept["runs"]

    def run(model: str, optimizer: str, rate: float, seed: int) -> float:
        key = f"{model}/{optimizer}/{rate:g}/{seed}"
        if key not in runs:
            runs[key] = measure(model, optimizer, rate, seed, arguments.steps)
            write_json(arguments.output, {**settings, "runs": runs})
        return runs[key]["bits"]

    for model, optimizer in tqdm(list(itertools.product(arguments.models, OPTIMIZERS)), desc="muon"):
        best = min(RATES, key=lambda rate: run(model, optimizer, rate, 0))
        for seed in range(1, arguments.seeds + 1):
            run(model, optimizer, best, seed)
    table = render({**settings, "runs": runs})
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    runs = content["runs"]
    rows = []
    for model in MODELS:
        cells = [model]
        for optimizer in OPTIMIZERS:
            start = f"{model}/{optimizer}"
            tuned = {rate: runs.get(f"{start}/{rate:g}/0", {"bits": math.inf})["bits"] for rate in RATES}
            best = min(tuned, key=tuned.__getitem__)
            found = [run for key, run in runs.items() if key.startswith(f"{start}/{best:g}/") and key[-2:] != "/0"]
            if not found:
                break
            bits = [run["bits"] for run in found]
            spread = statistics.stdev(bits) if len(bits) > 1 else 0.0
            cells += [f"{statistics.mean(bits):.3f} ± {spread:.3f}", f"{best:g}"]
            cells.append(f"{1e3 * statistics.median(run['seconds'] for run in found) / content['steps']:.0f} ms")
        else:
            rows.append([cells[0], f"{found[0]['parameters']:,}", *cells[1:]])
    header = ["model", "parameters"]
    for optimizer in OPTIMIZERS:
        header += [optimizer, "rate", "step"]
    made = made_by("muon", content["machine"])
    return (
        f"{made}: bits per byte of held-out text after {content['steps']} steps of {BATCH} x {CONTEXT} bytes, mean and "
        f"standard deviation over the seeds, at the rate of AdamW, of {', '.join(map(str, RATES))}, that is best on "
        "another seed; Muon has five times that rate. A step is the time of one thread.\n\n"
        + markdown_table(header, rows)
        + "\n"
    )


class ByteModel(nn.Module):
    """A causal transformer over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        options: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": True, "activation": "gelu"}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, **options) for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256)
        nn.init.normal_(self.bytes.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        found: Tensor = self.head(self.norm(x))
        return found


def measure(model_name: str, optimizer_name: str, rate: float, seed: int, steps: int) -> dict[str, float]:
    """Train one model, and return the bits per byte of held-out text, the processor's seconds, and the parameters."""
    torch.manual_seed(seed)
    model: nn.Module = ByteModel()
    budget, options = MODELS[model_name]
    if budget is not None:
        shapeshift.compress(model, budget, exclude=["bytes", "places", "head"], **options)
    seconds = train(model, OPTIMIZERS[optimizer_name](model, rate), seed, steps)
    return {"bits": bits_per_byte(model), "seconds": seconds, "parameters": shapeshift.count_parameters(model)}


def train(model: nn.Module, optimizer: Optimizer, seed: int, steps: int) -> float:
    """Train a model, and return the processor's seconds."""
    text, _ = load()
    warm_up = steps // 10
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up))
    )
    windows = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for _ in range(steps):
        begins = torch.randint(len(text) - CONTEXT, (BATCH,), generator=windows)
        batch = torch.stack([text[begin : begin + CONTEXT + 1] for begin in begins.tolist()]).long()
        optimizer.zero_grad()
        _loss(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return time.process_time() - start


def bits_per_byte(model: nn.Module) -> float:
    """Return the bits per byte of held-out text."""
    _, test = load()
    model.eval()
    with torch.no_grad():
        rows = test[: len(test) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1).long()
        losses = [_loss(model, part).item() * len(part) for part in rows.split(128)]
    return sum(losses) / len(rows) / math.log(2)


def _loss(model: nn.Module, text: Tensor) -> Tensor:
    return F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


def load() -> tuple[Tensor, Tensor]:
    """Return the bytes of Python's modules to train on, and the held-out ends of them."""
    train, test = bytearray(), bytearray()
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        content = Path(spec.origin).read_bytes()
        end = round(len(content) * (1 - HELD_OUT))
        train += content[:end]
        test += content[end:]
    return torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(test, dtype=torch.uint8)


if __name__ == "__main__":
    main()
