"""The memory and the time of training against the budget: weights that are recomputed, that are kept, and dense ones.

    python -m benchmarks.memory                      # all that is missing from the JSON; writes it, tables and a plot
    python -m benchmarks.memory --rows bert resnet   # these rows alone
    python -m benchmarks.memory --device cuda        # on a GPU: batches of its size, under bfloat16 autocast

Each peak comes from a process of its own: it runs the dense model once, so that all kernels are made, and gives the
memory back. Then it builds the model and takes three steps with AdamW. The peak is what the process held at most during
these steps, less what it had before the model was built. glibc keeps freed memory in holes between what is in use;
MALLOC_MMAP_THRESHOLD_ is set for these processes, so that every tensor of 64 KiB or more goes back to the system when
it is freed. Activations are what the dense model's forward saves for its backward pass, without parameters. Steps are
timed in turn, in seconds of one thread, which do not count what others do on the machine. On a GPU the peak is that of
allocated memory, and the seconds are those of the clock.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

import shapeshift
from benchmarks.machine import describe, made_by, without_own_version
from benchmarks.markdown import markdown_table
from benchmarks.own_process import measured_alone, reset_peak, resident_bytes
from benchmarks.results import RESULTS, write_json
from benchmarks.timing import alternate
from benchmarks.workloads import WORKLOADS, Workload, loss
from shapeshift.budget import parse_budget
from shapeshift.experiments.error_plot import label_lines
from shapeshift.extras import new_figure, save_figure
from shapeshift.generators import GENERATORS
from shapeshift.plan import budget_range
from shapeshift.store_format import STORE_FORMATS

BUDGETS = ("25%", "5%", "1%")
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"combine": name} for name in GENERATORS},
    **{name: {"store": name} for name in STORE_FORMATS if name != shapeshift.Config().store},
}
LARGE = "gpt2-large"  # too large to be trained dense beside other programs
METHOD_ROWS = ("bert", "resnet")  # every generator and format of the store on these
STEPS = 3
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}  # not for steps: the time of each mapping would count


class LanguageModel(nn.Module):
    """GPT-2 large, from tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        config = GPT2Config(n_embd=1280, n_layer=36, n_head=20, use_cache=False)
        self.model = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens).logits
        return logits


Batches = dict[str, Callable[[], Tensor]]


def _row(workload: Workload) -> tuple[str, Callable[[], nn.Module], Batches]:
    sizes = {"cpu": workload.batch_size, "cuda": workload.gpu_batch_size}
    batches: Batches = {device: partial(workload.batch, size) for device, size in sizes.items()}
    return workload.title, workload.model, batches


# The title, the model and its batch on each device of each row.
ROWS: dict[str, tuple[str, Callable[[], nn.Module], Batches]] = {
    **{name: _row(workload) for name, workload in WORKLOADS.items()},
    LARGE: (
        "GPT-2 large, 128 tokens",
        LanguageModel,
        {device: partial(torch.randint, 50257, (size, 128)) for device, size in (("cpu", 1), ("cuda", 8))},
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="measure the rows anew")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, help="the JSON file; tables and the plot are written beside it")
    parser.add_argument("--measure", metavar="KEY", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.device)))
        return
    output = arguments.output or RESULTS / f"memory_{arguments.device}.json"
    content: dict[str, Any] = {"machine": describe(arguments.device), "seed": 0, "steps": STEPS, "results": {}}
    if output.exists():
        kept = json.loads(output.read_text())
        if without_own_version(kept["machine"]) == without_own_version(content["machine"]):
            content["results"] = kept["results"]  # each of which names the version that it was measured with
    for key in tqdm(_measurements(arguments.rows), desc="memory"):
        if key not in content["results"] or arguments.again:
            environment = {} if key.startswith("steps") else FREED_AT_ONCE
            found = measured_alone("memory", "--measure", key, "--device", arguments.device, environment=environment)
            content["results"][key] = {"shapeshift": shapeshift.__version__, **found}
            write_json(output, content)
    table = render(content)
    output.with_suffix(".md").write_text(table)
    plot(content, output.with_suffix(".png"))
    print(table)


def _measurements(rows: Sequence[str]) -> list[str]:
    """Name the measurements: what, the row, and the budget or the method."""
    found = [f"{what}:{row}" for row in rows for what in ("activations", "dense") if (what, row) != ("dense", LARGE)]
    for row in rows:
        found += [f"{what}:{row}:{budget}" for budget in BUDGETS for what in ("kept", "recomputed", "inference")]
    found += [f"steps:{row}:{budget}" for row in rows if row != LARGE for budget in BUDGETS]
    return found + [f"steps:{row}:{name}" for row in rows if row in METHOD_ROWS for name in METHODS]


def measure(key: str, device: str = "cpu") -> dict[str, float]:
    """Measure one figure of a row in this process."""
    torch.manual_seed(0)
    what, row, *choice = key.split(":")
    _, build, batches = ROWS[row]
    x = batches[device]().to(device)
    if what == "steps":
        return _time_steps(lambda: build().to(device), x, *choice)
    if what == "activations":
        return {"activations_bytes": _saved_bytes(build().to(device), x)}
    _loss(build().to(device), x).backward()
    before = _give_back(x)
    model = build()
    numbers = {"parameters": shapeshift.count_parameters(model), "largest": max(p.numel() for p in model.parameters())}
    if what != "dense":
        shapeshift.compress(model, choice[0], recompute=what != "kept", seed=0)
        numbers["budget"] = shapeshift.count_parameters(model)
    model.to(device)
    _give_back(x)
    _reset_peak(x)
    if what == "inference":
        with torch.inference_mode():
            _loss(model.eval(), x)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(STEPS):
            _step(model, optimizer, x)
    return {**numbers, "before_bytes": before, "peak_bytes": _peak(x) - before}


def _time_steps(build: Callable[[], nn.Module], x: Tensor, choice: str) -> dict[str, float]:
    """Time steps of the dense model, of kept and of recomputed weights, in turn.

    Args:
        build: Makes the dense model.
        x: The batch.
        choice: A budget, or a name in ``METHODS``, which has the budget next to 25% that it can use.
    """
    clock = time.perf_counter if x.is_cuda else time.process_time
    torch.set_num_threads(1)
    config = shapeshift.Config(**METHODS.get(choice, {}), seed=0)
    models = {"dense": build(), "kept": build(), "recomputed": build()}
    least, most = budget_range(models["dense"], config)
    allowed = parse_budget("25%" if choice in METHODS else choice, shapeshift.count_parameters(models["dense"]))
    budget = min(max(allowed, least), most)
    for name in ("kept", "recomputed"):
        shapeshift.compress(models[name], budget, config, recompute=name == "recomputed")
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()}
    actions = {name: partial(_step, models[name], optimizers[name], x) for name in models}
    return {"budget": budget, **alternate(actions, 5, x.device.type, clock)}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    _loss(model, x).backward()
    optimizer.step()


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
        return loss(model(x))


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
        kept = _loss(model, x)  # with the graph, so that no address is used twice
        total = sum(saved.values())
    del kept
    return total


def _give_back(x: Tensor) -> int:
    """Return freed memory to the system, and the bytes that the process, or the GPU of a batch, still has."""
    gc.collect()
    if x.is_cuda:
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_bytes()


def _reset_peak(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()


def _peak(x: Tensor) -> int:
    return torch.cuda.max_memory_allocated() if x.is_cuda else resident_bytes("VmHWM")


def bound(activations: float, found: Mapping[str, float]) -> float:
    """Return the peak to stay below: activations, four times the budget, twice the largest weight, and 5%."""
    return 1.05 * (activations + 4 * (4 * found["budget"] + 2 * found["largest"]))


def render(content: Mapping[str, Any]) -> str:
    """Make the tables of a result."""
    results = content["results"]
    peaks, steps = [], []
    for row, (title, _, _) in ROWS.items():
        dense = results.get(f"dense:{row}", {}).get("peak_bytes")
        for budget in BUDGETS:
            found = {what: results.get(f"{what}:{row}:{budget}") for what in ("kept", "recomputed", "inference")}
            if all(found.values()):
                limit = bound(results[f"activations:{row}"]["activations_bytes"], found["recomputed"])
                sizes = [dense, *(one["peak_bytes"] for one in found.values())]
                kept = [sizes[0], sizes[1], sizes[2], limit, sizes[3]]
                peaks.append([title, budget, *("" if size is None else f"{size / 2**20:,.0f}" for size in kept)])
        for choice in (*BUDGETS, *METHODS):
            timed = results.get(f"steps:{row}:{choice}")
            if timed:
                ratios = [f"{timed[name] / timed['dense']:.2f}" for name in ("kept", "recomputed")]
                steps.append([title, choice, f"{timed['dense'] * 1e3:,.0f} ms", *ratios])
    return (
        f"{made_by('memory', content['machine'])}.\n\n"
        f"{markdown_table(['workload', 'budget', 'dense', 'kept', 'recomputed', 'bound', 'inference'], peaks)}\n\n"
        f"Peaks in MiB over {content['steps']} AdamW steps, less what the process had before the model was built. "
        '"Bound" is 1.05 x (activations + 4 x budget + 2 x the largest weight). "Inference" is a forward pass of the '
        "compressed model.\n\n"
        f"{markdown_table(['workload', 'budget or method', 'dense step', 'kept', 'recomputed'], steps)}\n\n"
        "Steps of one thread with AdamW, relative to the dense model's. A generator or a format of the store has the "
        "budget next to 25% that it can use.\n"
    )


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the peak memory and the step time against the budget, relative to the dense model's."""
    results = content["results"]
    figure = new_figure(10, 4)
    memory, steps = figure.subplots(1, 2, sharex=True)
    budgets = [float(budget.rstrip("%")) for budget in BUDGETS]
    for place, (row, (title, _, _)) in enumerate(ROWS.items()):
        for what, line in (("kept", ":"), ("recomputed", "-")):
            style = {"linestyle": line, "color": f"C{place}"}
            keys = [f"{what}:{row}:{budget}" for budget in BUDGETS]
            if f"dense:{row}" in results and all(key in results for key in keys):
                dense = results[f"dense:{row}"]["peak_bytes"]
                label = title.split(",")[0] if what == "recomputed" else None
                memory.plot(budgets, [100 * results[key]["peak_bytes"] / dense for key in keys], label=label, **style)
            timed = [results.get(f"steps:{row}:{budget}") for budget in BUDGETS]
            if all(timed):
                steps.plot(budgets, [100 * found[what] / found["dense"] for found in timed], **style)
    for axes, title in ((memory, "peak memory of training"), (steps, "time of a step")):
        axes.axhline(100, color="gray", linewidth=1)
        axes.set(xscale="log", xlabel="budget, % of the parameters", title=title, ylabel="% of the dense model's")
        axes.set_xticks(budgets, BUDGETS)
        axes.minorticks_off()
    memory.set_ylim(0, 105)
    memory.set_title("peak memory of training (solid: recomputed, dotted: kept)", fontsize="medium")
    label_lines(memory)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
