"""The price of distillation: time of a training step with it, against the student's step and the teacher's forward.

    python -m benchmarks.cost_of_distillation

Distillation needs one forward pass of the teacher, and adds its connectors and its loss. The three actions take turns
within one process, and the ratio of medians is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from benchmarks.timing import alternate
from shapeshift.distill import DISTILLERS
from shapeshift.networks.wide_resnet import WideResNet


@dataclass(frozen=True)
class Pair:
    """A teacher and a student, and the images that they see."""

    title: str
    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    side: int
    batch_size: int


PAIRS = {
    "resnet": Pair(
        "ResNet-50 to ResNet-18, 64 px",
        lambda: timm.create_model("resnet50", num_classes=100),
        lambda: timm.create_model("resnet18", num_classes=100),
        64,
        32,
    ),
    "wrn": Pair("WRN-28-4 to WRN-16-2, 32 px", lambda: WideResNet(28, 4), lambda: WideResNet(16, 2), 32, 32),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost_of_distillation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each in a run")
    parser.add_argument("--runs", type=int, default=3, help="the lowest ratio of these is reported")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, help="the JSON file; the table is written beside it")
    arguments = parser.parse_args(argv)
    jobs = [(row, method) for row in PAIRS for method in DISTILLERS for _ in range(arguments.runs)]
    results: dict[str, list[dict[str, float]]] = {}
    for row, method in tqdm(jobs, desc="distillation cost"):
        found = measure(PAIRS[row], method, arguments.steps, arguments.device)
        results.setdefault(f"{row}:{method}", []).append(found)
    content = {"machine": describe(arguments.device), "steps": arguments.steps, "seed": 0, "results": results}
    path = arguments.output or RESULTS / f"cost_of_distillation_{arguments.device}.json"
    write_json(path, content)
    table = render(content)
    path.with_suffix(".md").write_text(table)
    print(table)


def measure(pair: Pair, method: str, steps: int, device: str) -> dict[str, float]:
    """Time the student's step, the teacher's forward pass and the step with distillation in turn."""
    torch.manual_seed(0)
    teacher, student = pair.teacher().to(device).eval(), pair.student().to(device)
    x = torch.randn(pair.batch_size, 3, pair.side, pair.side, device=device)
    y = torch.zeros(len(x), dtype=torch.long, device=device)
    distiller = DISTILLERS[method](teacher, student)
    optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], 0.01, momentum=0.9)

    def step(distilled: bool) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(student(x), y)
        if distilled:
            loss = loss + distiller(x, y)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def look() -> None:
        teacher(x)

    return alternate({"student": lambda: step(False), "teacher": look, "distilled": lambda: step(True)}, steps, device)


def ratio(found: dict[str, float]) -> float:
    """Return the time of a distilled step over that of the student's step and the teacher's forward pass."""
    return found["distilled"] / (found["student"] + found["teacher"])


def render(content: dict[str, Any]) -> str:
    """Make the table of a result."""
    rows = []
    for key, runs in content["results"].items():
        row, _, method = key.partition(":")
        best = min(runs, key=ratio)
        milliseconds = [f"{best[name] * 1e3:,.0f} ms" for name in ("student", "teacher", "distilled")]
        rows.append([PAIRS[row].title, method, *milliseconds, " ".join(f"{ratio(run):.2f}" for run in runs)])
    header = ["pair", "method", "student's step", "teacher's forward", "distilled step", "distilled / (both), by run"]
    return (
        f"{made_by('cost_of_distillation', content['machine'])}; medians over {content['steps']} steps in "
        f"turn, of the run with the lowest ratio.\n\n{markdown_table(header, rows)}\n"
    )


if __name__ == "__main__":
    main()
