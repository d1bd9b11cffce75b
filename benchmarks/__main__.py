"""The papers' tables and our own: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import run
from benchmarks.markdown import RESULTS
from benchmarks.report import PAGE, result_file, write_page, write_report
from benchmarks.tables import TABLES


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(":")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the benchmarks")
    commands.add_parser("report", help="make the tables, the pictures and docs/results.md from the JSON files")
    runner = commands.add_parser("run", help="train what is missing, and write JSON, table and picture")
    runner.add_argument("names", nargs="+", choices=list(TABLES), metavar="NAME", help="as `list` names them")
    datasets = list(dict.fromkeys(name for each in TABLES.values() for name in each.experiment.datasets))
    runner.add_argument("--data", choices=datasets, help="default: the benchmark's first, such as digits")
    runner.add_argument("--data-dir", type=Path, help="the folder of a data set that is read from files")
    runner.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    runner.add_argument("--seeds", type=int, default=5, help="runs of each row (default: 5)")
    runner.add_argument("--processes", type=int, default=2, help="trainings at once, on one thread each (default: 2)")
    runner.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="rows to train, such as '*/25k'")
    runner.add_argument("--again", nargs="+", default=[], metavar="PATTERN", help="rows to repeat, such as '*/dense/'")
    runner.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    arguments = parser.parse_args(argv)

    if arguments.command == "list":
        for name, table in TABLES.items():
            print(f"{name:<26}{table.title} ({table.source}; {len(table.rows)} rows)")
    elif arguments.command == "report":
        write_page()
        print(f"Wrote {PAGE}")
    else:
        for name in arguments.names:
            experiment = TABLES[name].experiment
            data = arguments.data or experiment.datasets[0]
            if data not in experiment.datasets:
                runner.error(f"{name} has no data set {data!r}; choose from {', '.join(experiment.datasets)}")
            task = experiment.task(data, arguments.device, arguments.data_dir)
            files = {
                result_file(table, data, arguments.device, arguments.output): table
                for table in TABLES.values()
                if table.experiment is experiment
            }
            path = result_file(TABLES[name], data, arguments.device, arguments.output)
            seeds, processes = arguments.seeds, arguments.processes
            results = run(TABLES[name], task, seeds, processes, path, arguments.rows, arguments.again, files)
            print(write_report(TABLES[name], results, path))


if __name__ == "__main__":
    main()
