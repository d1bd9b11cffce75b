"""Benchmarks of test errors, the papers' tables and our own: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparisons import COMPARISONS
from benchmarks.harness import run
from benchmarks.report import PAGE, result_file, write_page, write_report
from benchmarks.tables import RESULTS
from benchmarks.task import make_task
from shapeshift.integrations.data import DATASETS


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(":")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the benchmarks")
    commands.add_parser("report", help="make the tables, the pictures and docs/results.md from the JSON files")
    runner = commands.add_parser("run", help="train what is missing, and write JSON, table and picture")
    runner.add_argument("names", nargs="+", choices=list(COMPARISONS), metavar="NAME", help="as `list` names them")
    runner.add_argument("--data", choices=list(DATASETS), default="digits", help="default: digits")
    runner.add_argument("--data-dir", type=Path, help="the folder of a data set that is read from files")
    runner.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    runner.add_argument("--seeds", type=int, default=5, help="runs of each row (default: 5)")
    runner.add_argument("--processes", type=int, default=2, help="trainings at once, on one thread each (default: 2)")
    runner.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="rows to train, such as '*/25k'")
    runner.add_argument("--again", nargs="+", default=[], metavar="PATTERN", help="rows to repeat, such as '*/dense/'")
    runner.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    arguments = parser.parse_args(argv)

    if arguments.command == "list":
        for name, comparison in COMPARISONS.items():
            print(f"{name:<26}{comparison.title} ({comparison.source}; {len(comparison.rows)} rows)")
    elif arguments.command == "report":
        write_page()
        print(f"Wrote {PAGE}")
    else:
        task = make_task(arguments.data, arguments.device, arguments.data_dir)
        files = {
            result_file(comparison, arguments.data, arguments.device, arguments.output): comparison
            for comparison in COMPARISONS.values()
        }
        for path, comparison in files.items():
            if comparison.name not in arguments.names:
                continue
            seeds, processes = arguments.seeds, arguments.processes
            results = run(comparison, task, seeds, processes, path, arguments.rows, arguments.again, files)
            print(write_report(comparison, results, path))


if __name__ == "__main__":
    main()
