"""The peak memory of training against the budget: weights that are recomputed, weights that are kept, and dense ones.

    python -m benchmarks.memory                      # all that is missing from the JSON; writes it, a table and a plot
    python -m benchmarks.memory --rows bert resnet   # these rows alone

Each figure comes from a process of its own: it runs the dense model once, so that all kernels are made, and gives the
memory back. Then it builds the model and takes three steps with AdamW. The peak is what the process held at most during
these steps, less what it had before the model was built. Activations are what the dense model's forward saves for its
backward pass, without parameters.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from benchmarks.timing import alternate
from benchmarks.workloads import WORKLOADS, loss

BUDGETS = ("25%", "5%", "1%")
STEPS = 3


class LanguageModel(nn.Module):
    """GPT-2 large, from tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        config = GPT2Config(n_embd=1280, n_layer=36, n_head=20, use_cache=False)
        self.model = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens).logits
        return logits


# The title, the model and its batch of each row.
ROWS: dict[str, tuple[str, Callable[[], nn.Module], Callable[[], Tensor]]] = {
    **{
        name: (f"{workload.title}, batch {workload.batch_size}", workload.model, _batch)
        for name, workload in WORKLOADS.items()
        for _batch in [lambda workload=workload: workload.batch(workload.batch_size)]
    },
    "gpt2-large": (
        "GPT-2 large, 128 tokens, batch 1",
        LanguageModel,
        lambda: torch.randint(50257, (1, 128)),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="measure the rows anew")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory_cpu.json")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "ROW", "BUDGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    content: dict[str, Any] = {"machine": describe("cpu"), "seed": 0, "steps": STEPS, "results": {}}
    if arguments.output.exists():
        kept = json.loads(arguments.output.read_text())
        if kept["machine"] == content["machine"]:
            content["results"] = kept["results"]
    wanted = [
        (what, row, budget)
        for row in arguments.rows
        for budget in BUDGETS
        for what in ("dense", "kept", "recomputed", "inference", "steps")
        if (what != "dense" or budget == BUDGETS[0]) and (what, row) != ("steps", "gpt2-large")
    ]
    results = content["results"]
    for what, row, budget in tqdm(wanted, desc="memory"):
        key = f"{what}:{row}" if what == "dense" else f"{what}:{row}:{budget}"
        if key not in results or arguments.again:
            results[key] = _in_own_process(what, row, budget)
            write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    plot(content, arguments.output.with_suffix(".png"))
    print(table)


def _in_own_process(*measurement: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", *measurement]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout)


def measure(what: str, row: str, budget: str) -> dict[str, float]:
    """Measure one figure of a row in this process."""
    torch.manual_seed(0)
    _, build, batch = ROWS[row]
    if what == "steps":
        return _time_steps(build, batch(), budget)
    _load_kernels(build(), batch())
    before = _give_back()
    model, x = build(), batch()
    numbers = {"parameters": shapeshift.count_parameters(model), "largest": max(p.numel() for p in model.parameters())}
    if what != "dense":
        shapeshift.compress(model, budget, recompute=what != "kept", seed=0)
        numbers["budget"] = shapeshift.count_parameters(model)
    else:
        numbers["activations_bytes"] = _saved_bytes(model, x)
    numbers["before_bytes"] = before
    _give_back()
    _reset_peak()
    if what == "inference":
        with torch.inference_mode():
            model.eval()(x)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(STEPS):
            _step(model, optimizer, x)
    return {**numbers, "peak_bytes": _memory("VmHWM") - before}


def _time_steps(build: Callable[[], nn.Module], x: Tensor, budget: str) -> dict[str, float]:
    """Time steps of the dense model, of kept and of recomputed weights, in turn."""
    models = {"dense": build(), "kept": build(), "recomputed": build()}
    for name in ("kept", "recomputed"):
        shapeshift.compress(models[name], budget, recompute=name == "recomputed", seed=0)
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()}
    actions = {name: lambda name=name: _step(models[name], optimizers[name], x) for name in models}  # type: ignore[misc]
    return alternate(actions, 8)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    loss(model(x)).backward()
    optimizer.step()


def _saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that a forward saves for its backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with saved_tensors_hooks(note, lambda tensor: tensor):
        kept = loss(model(x))  # with the graph, so that no address is used twice
        total = sum(saved.values())
    del kept
    return total


def _load_kernels(model: nn.Module, x: Tensor) -> None:
    """Run a dense model once, so that the kernels that torch makes for its shapes count as there before."""
    loss(model(x)).backward()


def _give_back() -> int:
    """Return freed memory to the system, and what the process still has, in bytes."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _memory("VmRSS")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def bound(dense: Mapping[str, float], found: Mapping[str, float]) -> float:
    """Return the peak to stay below: activations, four times the budget, twice the largest weight, and 5%."""
    return 1.05 * (dense["activations_bytes"] + 4 * (4 * found["budget"] + 2 * found["largest"]))


def render(content: Mapping[str, Any]) -> str:
    """Make the table of a result."""
    results, rows = content["results"], []
    for row, (title, _, _) in ROWS.items():
        dense = results.get(f"dense:{row}")
        if dense is None:
            continue
        for budget in BUDGETS:
            keys = {what: results.get(f"{what}:{row}:{budget}") for what in ("kept", "recomputed", "inference")}
            if not all(keys.values()):
                continue
            steps = results.get(f"steps:{row}:{budget}")
            relative = [f"{steps[name] / steps['dense']:.2f}" if steps else "" for name in ("kept", "recomputed")]
            peaks = [f"{found['peak_bytes'] / 2**20:,.0f}" for found in (dense, *keys.values())]
            limit = f"{bound(dense, keys['recomputed']) / 2**20:,.0f}"
            rows.append([title, budget, *peaks[:3], limit, peaks[3], *relative])
    header = ["workload", "budget", "dense", "kept", "recomputed", "bound", "inference", "step, kept", "recomputed"]
    return (
        f"{made_by('memory', content['machine'])}.\n\n{markdown_table(header, rows)}\n\n"
        f"Peaks in MiB over {content['steps']} AdamW steps, less what the process had before the model was built. "
        '"Bound" is 1.05 x (activations + 4 x budget + 2 x the largest weight). "Inference" is a forward pass of the '
        "compressed model, weights recomputed. The last columns are step times relative to the dense model's.\n"
    )


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the peak memory and the step time against the budget, relative to the dense model's."""
    import matplotlib.pyplot as plt

    results = content["results"]
    found = [row for row in ROWS if f"dense:{row}" in results]
    figure, (memory, time) = plt.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
    budgets = [float(budget.rstrip("%")) for budget in BUDGETS]
    for place, row in enumerate(found):
        dense = results[f"dense:{row}"]["peak_bytes"]
        for what, line in (("kept", ":"), ("recomputed", "-")):
            peaks = [results.get(f"{what}:{row}:{budget}", {}).get("peak_bytes") for budget in BUDGETS]
            if all(peaks):
                label = ROWS[row][0].split(",")[0] if what == "recomputed" else None
                memory.plot(budgets, [100 * peak / dense for peak in peaks], line, color=f"C{place}", label=label)
            steps = [results.get(f"steps:{row}:{budget}") for budget in BUDGETS]
            if all(steps):
                time.plot(budgets, [100 * step[what] / step["dense"] for step in steps], line, color=f"C{place}")
    for axes, title in ((memory, "peak memory of training"), (time, "time of a step")):
        axes.axhline(100, color="gray", linewidth=1)
        axes.set(xscale="log", xlabel="budget, % of the parameters", title=title, ylabel="% of the dense model's")
        axes.set_xticks(budgets, BUDGETS)
        axes.minorticks_off()
    memory.legend(frameon=False, fontsize="small", title="solid: recomputed, dotted: kept", title_fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
