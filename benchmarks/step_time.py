"""The price of generated weights: time and memory of a training step, dense and compressed in turn.

    python -m benchmarks.step_time                    # all that is missing from the JSON; writes it and a table
    python -m benchmarks.step_time --again 'steps:*'  # and the paired steps anew

A step is zero_grad, forward, backward and the optimizer's step. The contenders take turns within one process, so that
a machine whose speed drifts slows all of them, and the ratio of their median times is reported. Each run is a
process of its own, and so is each measurement of memory. Measurements are kept as they finish.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from tqdm import tqdm

import shapeshift
from benchmarks.baselines.paper_style import share_in_paper_style
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.own_process import measured_alone
from benchmarks.results import RESULTS, write_json
from benchmarks.timing import alternate, timed
from benchmarks.workloads import WORKLOADS, Workload, loss
from shapeshift.budget import parse_budget
from shapeshift.extras import new_figure, save_figure
from shapeshift.generators import GENERATORS
from shapeshift.mappings import MAPPINGS
from shapeshift.plan import budget_range
from shapeshift.store_format import STORE_FORMATS

LARGE_MODELS = ("resnet152", "vit_large_patch16_224")

# Every generator, mapping and format of the store beside the defaults, on these.
METHOD_ROWS = ("bert", "resnet")
METHODS = [
    f"{choice}={name}"
    for choice, registry in (("combine", GENERATORS), ("mapping", MAPPINGS), ("store", STORE_FORMATS))
    for name in registry
    if name != getattr(shapeshift.Config(), choice)
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--budget", default="25%")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each contender in a run")
    parser.add_argument("--runs", type=int, default=3, help="the lowest ratio of these is reported")
    parser.add_argument("--again", nargs="+", default=[], metavar="PATTERN", help="measurements to repeat: 'steps:*'")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="a GPU runs under bfloat16 autocast")
    parser.add_argument("--output", type=Path, help="the JSON file; the table is written beside it")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        measure, _, key = arguments.measure.partition(":")
        print(json.dumps(_MEASURES[measure](key, arguments)))
        return

    path = arguments.output or RESULTS / f"step_time_{arguments.device}.json"
    settings = {"machine": describe(arguments.device), "budget": arguments.budget, "steps": arguments.steps, "seed": 0}
    results: dict[str, list[Any]] = {}
    if path.exists():
        kept = json.loads(path.read_text())
        if all(kept[key] == value for key, value in settings.items()):
            results = kept["results"]
    results = {
        key: found
        for key, found in results.items()
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in arguments.again)
    }
    several = ("steps:", "method:")
    wanted = []
    for key in _measurements(arguments):
        runs = arguments.runs if key.startswith(several) else 1
        wanted += [key] * (runs - len(results.get(key, [])))  # none where more were kept
    for measurement in tqdm(wanted, desc="step time"):
        results.setdefault(measurement, []).append(_in_own_process(measurement, arguments))
        write_json(path, {**settings, "results": results})
    table = render({**settings, "results": results})
    path.with_suffix(".md").write_text(table)
    plot({**settings, "results": results}, path.with_suffix(".png"))
    print(table)


def _measurements(arguments: argparse.Namespace) -> list[str]:
    """Name the measurements, the most important ones first."""
    found = [f"steps:{row}" for row in arguments.rows]
    found += [f"method:{row} {method}" for row in arguments.rows if row in METHOD_ROWS for method in METHODS]
    found += [f"{measure}:{row}" for row in arguments.rows for measure in ("paper", "dense", "shared")]
    return found + [f"setup:{name}" for name in LARGE_MODELS]


def render(content: dict[str, Any]) -> str:
    """Make the tables of a result."""
    results = content["results"]
    steps, setup = [], []
    for row, workload in WORKLOADS.items():
        if any(f"{measure}:{row}" not in results for measure in ("steps", "paper", "dense", "shared")):
            continue
        runs = results[f"steps:{row}"]
        ratios = [run["shared"] / run["dense"] for run in runs]
        best = runs[ratios.index(min(ratios))]
        paper, dense, shared = (results[f"{measure}:{row}"][0] for measure in ("paper", "dense", "shared"))
        steps.append(
            [
                f"{workload.title}, batch {best['batch_size']}",
                f"{best['dense'] * 1e3:,.0f} ms",
                f"{min(ratios):.2f}",
                " ".join(f"{ratio:.2f}" for ratio in ratios),
                f"{paper['paper'] / paper['shared']:.2f}",
                f"{min((run['materialized'] / run['inference'] for run in runs), key=lambda r: abs(r - 1)):.2f}",
                f"{dense['peak_bytes'] / 2**20:,.0f} / {shared['peak_bytes'] / 2**20:,.0f}",
                f"{dense['checkpoint_bytes'] / 1e6:,.1f} / {shared['checkpoint_bytes'] / 1e6:,.1f}",
            ]
        )
    for name in LARGE_MODELS:
        (times,) = results[f"setup:{name}"]
        setup.append([name, *(f"{times[key]:.2f} s" for key in ("build", "compress", "materialize"))])
    step_header = ["workload", "dense step", "step / dense", "runs", "papers' / ours", "inference"]
    step_header += ["peak MiB, dense / ours", "checkpoint MB, dense / ours"]
    return (
        f"{made_by('step_time', content['machine'])}, at a budget of {content['budget']}.\n\n"
        f"{markdown_table(step_header, steps)}\n\n"
        f'"step / dense" is the lowest of the runs, each the ratio of medians over {content["steps"]} paired steps; '
        '"papers\' / ours" the time of the papers\' generator over ours; "inference" the materialized model\'s '
        "forward over the dense model's.\n\n"
        f"{markdown_table(['model', 'build', 'compress', 'materialize'], setup)}\n\n"
        "Generators, mappings and formats of the store beside the defaults, the lowest step / dense of the runs; where "
        "a generator cannot use the budget, it has the most that it can, or the least that it needs.\n\n"
        f"{markdown_table(['method', *METHOD_ROWS], _method_lines(results))}\n"
    )


def _method_lines(results: Mapping[str, Any]) -> list[list[str]]:
    """Make a line for each method that was measured."""
    lines = []
    for method in METHODS:
        runs = [results.get(f"method:{row} {method}", []) for row in METHOD_ROWS]
        ratios = [min((run["shared"] / run["dense"] for run in found), default=None) for found in runs]
        if any(runs):
            lines.append([method, *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
    return lines


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the time of a step, ours and the papers' generator's, relative to the dense model's."""
    results, places = content["results"], {}
    for row, workload in WORKLOADS.items():
        if f"steps:{row}" in results and f"paper:{row}" in results:
            ours = min(run["shared"] / run["dense"] for run in results[f"steps:{row}"])
            paper = results[f"paper:{row}"][0]
            places[workload.title] = {
                "shapeshift": ours,
                "the papers' generator": ours * paper["paper"] / paper["shared"],
            }
    figure = new_figure(7, 0.9 + 0.7 * len(places))
    axes = figure.add_subplot()
    for offset, color, name in ((-0.2, "C0", "shapeshift"), (0.2, "C1", "the papers' generator")):
        ratios = [100 * found[name] for found in places.values()]
        bars = axes.barh([place + offset for place in range(len(places))], ratios, 0.36, color=color)
        axes.bar_label(bars, [f"{ratio:.0f}%  {name}" for ratio in ratios], padding=4, color=color, fontsize="small")
    axes.axvline(100, color="grey", linewidth=1)
    axes.set_yticks(range(len(places)), list(places))
    axes.invert_yaxis()
    axes.margins(x=0.5)
    axes.set(xlabel="time of a step, % of the dense model's", title=f"Budget {content['budget']}")
    save_figure(figure, path)


def _in_own_process(measurement: str, arguments: argparse.Namespace) -> Any:
    settings = ["--budget", arguments.budget, "--steps", str(arguments.steps), "--device", arguments.device]
    return measured_alone("step_time", "--measure", measurement, *settings)


class _Contender:
    """A model with its optimizer."""

    def __init__(self, model: nn.Module, workload: Workload, device: str) -> None:
        self.model = model.to(device)
        self.optimizer = workload.optimizer(list(model.parameters()))
        self.device = device

    def step(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda"):
            value = loss(self.model(x))
        value.backward()
        self.optimizer.step()


def _batch(workload: Workload, device: str) -> torch.Tensor:
    return workload.batch(workload.batch_size if device == "cpu" else workload.gpu_batch_size).to(device)


def measure_steps(row: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Time the steps of the dense and the compressed model in turn, then the inference of the materialized one."""
    torch.manual_seed(0)
    workload, device = WORKLOADS[row], arguments.device
    x = _batch(workload, device)
    dense = _Contender(workload.model(), workload, device)
    shared = _Contender(shapeshift.compress(copy.deepcopy(dense.model), arguments.budget), workload, device)
    steps = {"dense": lambda: dense.step(x), "shared": lambda: shared.step(x)}
    times = alternate(steps, arguments.steps, device)

    shapeshift.materialize(shared.model)
    dense.model.eval()
    shared.model.eval()
    with torch.inference_mode():
        passes = {"inference": lambda: dense.model(x), "materialized": lambda: shared.model(x)}
        times |= alternate(passes, max(5, arguments.steps // 2), device)
    return {"batch_size": len(x), **times}


def measure_method(key: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Time the steps of the dense model and of one compressed with a certain generator or mapping, in turn."""
    torch.manual_seed(0)
    row, _, method = key.partition(" ")
    workload, device = WORKLOADS[row], arguments.device
    x = _batch(workload, device)
    dense = _Contender(workload.model(), workload, device)
    choice, _, name = method.partition("=")
    config = shapeshift.Config.from_dict({choice: name})
    least, most = budget_range(dense.model, config)
    allowed = parse_budget(arguments.budget, shapeshift.count_parameters(dense.model))
    budget = min(max(allowed, least), most)
    shared = _Contender(shapeshift.compress(copy.deepcopy(dense.model), budget, config), workload, device)
    steps = {"dense": lambda: dense.step(x), "shared": lambda: shared.step(x)}
    return {"budget": budget, **alternate(steps, arguments.steps, device)}


def measure_paper(row: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Time the steps of the compressed model and of the papers' generator at the same budget, in turn."""
    torch.manual_seed(0)
    workload, device = WORKLOADS[row], arguments.device
    x = _batch(workload, device)
    model = workload.model()
    shared = _Contender(shapeshift.compress(copy.deepcopy(model), arguments.budget), workload, device)
    store_size = shapeshift.count_parameters(shared.model)
    paper = _Contender(share_in_paper_style(model, store_size), workload, device)
    steps = {"shared": lambda: shared.step(x), "paper": lambda: paper.step(x)}
    return alternate(steps, max(5, arguments.steps // 4), device)


def measure_memory(row: str, arguments: argparse.Namespace, compress: bool) -> dict[str, float]:
    """Measure the peak memory of a process that only takes steps, and the size of the checkpoint."""
    torch.manual_seed(0)
    workload, device = WORKLOADS[row], arguments.device
    model = workload.model()
    with tempfile.TemporaryDirectory() as folder:
        if compress:
            shapeshift.save(shapeshift.compress(model, arguments.budget), folder)
        else:
            torch.save(model.state_dict(), Path(folder) / "dense.pt")
        checkpoint_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
    contender, x = _Contender(model, workload, device), _batch(workload, device)
    for _ in range(3):
        contender.step(x)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"peak_bytes": peak, "checkpoint_bytes": checkpoint_bytes}


def measure_setup(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Time building a large model, compressing it and materializing it."""
    torch.manual_seed(0)
    models: list[nn.Module] = []
    build = timed(lambda: models.append(timm.create_model(name)), "cpu")
    compress = timed(lambda: shapeshift.compress(models[0], arguments.budget), "cpu")
    materialize = timed(lambda: shapeshift.materialize(models[0]), "cpu")
    return {"build": build, "compress": compress, "materialize": materialize}


_MEASURES: dict[str, Callable[[str, argparse.Namespace], dict[str, float]]] = {
    "steps": measure_steps,
    "method": measure_method,
    "paper": measure_paper,
    "dense": lambda row, arguments: measure_memory(row, arguments, compress=False),
    "shared": lambda row, arguments: measure_memory(row, arguments, compress=True),
    "setup": measure_setup,
}

if __name__ == "__main__":
    main()
