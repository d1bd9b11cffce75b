"""Bytes that training with several machines sends, dense and compressed.

    python -m benchmarks.traffic    # some minutes; writes JSON and a table

Two processes train over gloo by DistributedDataParallel, and a communication hook counts the bytes of the gradients
that a step all-reduces. A round of federated averaging sends a state dict from each client. The time on a link is
computed from the bytes, not measured.
"""

# Annotations are no strings in this file: torch compares those of a communication hook with its types.
import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import shapeshift
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json
from benchmarks.workloads import WORKLOADS, Workload, loss

ROWS = ("resnet", "bert")
BUDGETS = ("", "25%", "5%", "1%")  # none: the dense model
PROCESSES = 2
BATCH = 2  # of each process; the gradients have the same size whatever it is
STEPS = 2
LINK = 100e6  # bits a second


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=list(WORKLOADS), default=list(ROWS))
    parser.add_argument("--output", type=Path, default=RESULTS / "traffic.json", help="the JSON file")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)
    rows = tqdm(arguments.rows, desc="traffic")
    results = {f"{row}:{budget}": found for row in rows for budget, found in measure(WORKLOADS[row]).items()}
    content = {
        "machine": describe("cpu"),
        "processes": PROCESSES,
        "steps": STEPS,
        "seed": 0,
        "link_bits_per_second": LINK,
        "results": results,
    }
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def build(workload: Workload, budget: str) -> nn.Module:
    """Build a workload's model, compressed if a budget is given."""
    torch.manual_seed(0)
    model = workload.model()
    return shapeshift.compress(model, budget, seed=0) if budget else model


def measure(workload: Workload) -> dict[str, dict[str, Any]]:
    """Count what a step all-reduces and what a client sends in a round, for each budget.

    Returns:
        For each budget: the "parameters", the "all_reduced" bytes of each step, the "sent" bytes of a state dict, and
        how many of these are "buffers".
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_member, (folder, workload), nprocs=PROCESSES)  # type: ignore[attr-defined, no-untyped-call]
        counted = json.loads((Path(folder) / "steps.json").read_text())
    return {budget: {**_state_bytes(build(workload, budget)), "all_reduced": counted[budget]} for budget in BUDGETS}


def _state_bytes(model: nn.Module) -> dict[str, int]:
    """Count the parameters, the bytes of the state dict, and those of its buffers."""
    state, parameters = model.state_dict(), dict(model.named_parameters())
    return {
        "parameters": shapeshift.count_parameters(model),
        "sent": sum(entry.nbytes for entry in state.values()),
        "buffers": sum(entry.nbytes for name, entry in state.items() if name not in parameters),
    }


def _member(rank: int, folder: str, workload: Workload) -> None:
    """Train in one of the processes. The first one writes the bytes of each step."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=PROCESSES)
    counted = {budget: _steps(build(workload, budget), workload) for budget in BUDGETS}
    if rank == 0:
        (Path(folder) / "steps.json").write_text(json.dumps(counted))
    dist.barrier()
    # The interpreter's own end could meet a thread of the group that still lets go of a tensor.
    os._exit(0)


def _steps(model: nn.Module, workload: Workload) -> list[int]:
    """Return the bytes of gradients that each step all-reduces."""
    wrapped, counted, steps = DistributedDataParallel(model), list[int](), list[int]()
    wrapped.register_comm_hook(counted, _count)
    for _ in range(STEPS):
        wrapped.zero_grad()
        counted.clear()
        loss(wrapped(workload.batch(BATCH))).backward()
        steps.append(sum(counted))
    return steps


def _count(counted: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    counted.append(bucket.buffer().nbytes)
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]


def render(content: Mapping[str, Any]) -> str:
    """Make the table of a result."""
    lines = []
    for key, found in content["results"].items():
        row, _, budget = key.partition(":")
        step, dense = found["all_reduced"][-1], content["results"][f"{row}:"]
        # In a ring of two, each process sends each half of the gradients once.
        seconds = step * 8 / content["link_bits_per_second"]
        lines.append(
            [
                WORKLOADS[row].title.partition(",")[0],
                budget or "dense",
                f"{found['parameters']:,}",
                f"{step / 1e6:,.2f}",
                f"{seconds:,.2f}",
                f"{found['sent'] / 1e6:,.2f}",
                f"{found['buffers'] / 1e3:,.1f}",
                f"{dense['sent'] / found['sent']:,.0f}",
            ]
        )
    header = ["network", "budget", "parameters", "all-reduced, MB a step", "100 Mbit/s, s"]
    header += ["sent, MB a round", "of it buffers, kB", "dense / sent"]
    return (
        f"{made_by('traffic', content['machine'])}: {content['processes']} processes over gloo. The time is computed: "
        f"the bytes of a step over a link of {content['link_bits_per_second'] / 1e6:.0f} Mbit/s, as each of two "
        f"machines sends them in a ring.\n\n{markdown_table(header, lines)}\n"
    )


if __name__ == "__main__":
    main()
