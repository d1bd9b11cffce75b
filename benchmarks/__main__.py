"""The tables of the papers and our own: ``python -m benchmarks``.

The package's docstring explains tables, rows, experiments, tasks, runs and claims.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.estimates import TERAFLOPS
from benchmarks.estimates import render as render_estimates
from benchmarks.harness import run
from benchmarks.recipes import PAPER_TABLES, RECIPES
from benchmarks.rehearsal import rehearse
from benchmarks.report import DOCS, render_pilot, tells, write_pages, write_report
from benchmarks.results import RESULTS
from benchmarks.runs import RunStore
from benchmarks.table_runs import TableRuns, find_table_runs, stale_runs
from benchmarks.tables import TABLES


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command of ``python -m benchmarks``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(":")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the tables")
    commands.add_parser("report", help="make the tables, the pictures and the pages from the JSON files")
    runner = commands.add_parser("run", help="train what is missing, and write runs, table and picture")
    runner.add_argument("names", nargs="+", choices=list(TABLES), metavar="NAME", help="as `list` names them")
    datasets = list(dict.fromkeys(name for table in TABLES.values() for name in table.experiment.datasets))
    runner.add_argument("--recipe", choices=list(RECIPES), help="a paper's networks and training in place of ours")
    runner.add_argument("--dry-run", action="store_true", help="only estimate memory and hours of a paper's recipe")
    runner.add_argument(
        "--tflops", type=float, default=TERAFLOPS, help=f"what the GPU sustains (default: {TERAFLOPS:g})"
    )
    runner.add_argument("--rehearse", action="store_true", help="two steps of a paper's rows on made-up images")
    runner.add_argument("--data", choices=datasets, help="default: the table's first, such as digits")
    runner.add_argument("--data-dir", type=Path, help="the folder of a data set that is read from files")
    runner.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    runner.add_argument("--seeds", type=int, default=5, help="runs of each row (default: 5)")
    runner.add_argument("--processes", type=int, default=2, help="trainings at once, on one thread each (default: 2)")
    runner.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="rows to train, such as '*/25k'")
    runner.add_argument("--again", nargs="+", default=[], metavar="PATTERN", help="rows to repeat, such as '*/dense/'")
    runner.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    pilot = commands.add_parser("pilot", help="say how many seeds show the difference that matters")
    pilot.add_argument("names", nargs="+", choices=list(TABLES), metavar="NAME", help="tables with a few seeds of runs")
    pilot.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    pruner = commands.add_parser("prune", help="delete the runs that no table asks for any more")
    pruner.add_argument("--undecided", action="store_true", help="and those of tables that decide too little")
    pruner.add_argument("--dry-run", action="store_true", help="only name them")
    pruner.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    arguments = parser.parse_args(argv)

    if arguments.command == "list":
        for name, table in TABLES.items():
            print(f"{name:<26}{table.title} ({table.source}; {len(table.rows)} rows)")
    elif arguments.command == "report":
        write_pages(_store(RESULTS))
        print(f"Wrote {DOCS / 'results.md'} and the pages below {DOCS / 'results'}")
    elif arguments.command == "prune":
        _prune(arguments.output, arguments.undecided, arguments.dry_run)
    elif arguments.command == "pilot":
        for found in _found(arguments.names, _store(arguments.output)):
            print(f"{found.name}:\n{render_pilot(found)}\n")
    else:
        _join_group(arguments.device)
        _run(arguments, runner)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    recipe = RECIPES.get(arguments.recipe)
    if recipe is None and (arguments.dry_run or arguments.rehearse):
        parser.error("--dry-run and --rehearse are for a paper's recipe: say which by --recipe")
    for table in (TABLES[name] for name in arguments.names):
        datasets = table.experiment.datasets
        if recipe:
            if f"{table.name}_{recipe.name}" not in PAPER_TABLES:
                parser.error(f"{table.name} has no recipe {recipe.name!r}; choose from {', '.join(recipe.networks)}")
            table, datasets = PAPER_TABLES[f"{table.name}_{recipe.name}"], recipe.datasets
        data = arguments.data or datasets[0]
        if data not in datasets:
            parser.error(f"{table.name} has no data set {data!r}; choose from {', '.join(datasets)}")
        if arguments.rehearse:
            for row, error, seconds in rehearse(table, arguments.device, arguments.rows):
                print(f"{row.key}: error {error:.0f}% after two steps, {seconds:.1f} s", flush=True)
            continue
        task, store = table.task(data, arguments.device, arguments.data_dir), _store(arguments.output)
        if recipe:
            print(render_estimates(table, task, arguments.seeds, arguments.tflops), flush=True)
        if not arguments.dry_run:
            found = run(table, task, arguments.seeds, arguments.processes, store, arguments.rows, arguments.again)
            if not dist.is_initialized() or dist.get_rank() == 0:
                print(write_report(found, arguments.output))


def _join_group(device: str) -> None:
    """Join the other processes where torchrun has started this one, each with a GPU of its own."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _found(names: Sequence[str], store: RunStore) -> Iterator[TableRuns]:
    return (found for name in names for found in find_table_runs({**TABLES, **PAPER_TABLES}[name], store))


def _prune(folder: Path, undecided: bool, dry_run: bool) -> None:
    store = _store(folder)
    found = list(_found([*TABLES, *PAPER_TABLES], store))
    dropped = [each.name for each in found if undecided and not tells(each)]
    stale = stale_runs([each for each in found if each.name not in dropped], store)
    for name in stale:
        settings, seed = store.runs[name].settings, store.runs[name].seed
        print(f"{name}: {settings['experiment']}, {settings['data']['name']}, {settings['build']}, seed {seed}")
    print(f"{len(stale)} of {len(store.runs)} runs are stale")
    if not dry_run:
        for name in stale:
            store.remove(name)
        for name in dropped:
            for ending in ("csv", "png"):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)


def _store(folder: Path) -> RunStore:
    return RunStore(folder / "runs")


if __name__ == "__main__":
    main()
