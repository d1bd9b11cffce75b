"""How many models of timm and transformers can be compressed: ``python -m benchmarks.coverage``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.coverage.report import PAGE, result_file, write_page
from benchmarks.coverage.sweep import LIBRARIES, Limits, sweep
from benchmarks.results import RESULTS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweeps of the command line, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.partition(":")[0])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="default: both")
    parser.add_argument(
        "--models", nargs="+", default=["*"], metavar="PATTERN", help="models to check, such as 'vit_*'"
    )
    parser.add_argument("--again", nargs="+", default=[], metavar="PATTERN", help="models to check once more")
    parser.add_argument("--processes", type=int, default=1, help="models at once, on one thread each (default: 1)")
    parser.add_argument("--seconds", type=float, default=600, help="that a model may take (default: 600)")
    parser.add_argument("--gigabytes", type=float, default=12, help="that a model may take (default: 12)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    arguments = parser.parse_args(argv)

    os.environ["HF_HUB_OFFLINE"] = "1"  # for the processes: everything is built from scratch
    limits = Limits(arguments.seconds, arguments.gigabytes)
    for library in arguments.libraries:
        path = result_file(library, arguments.output)
        sweep(library, path, limits, arguments.processes, arguments.models, arguments.again)
    if arguments.output == RESULTS:
        write_page()
        print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
