"""Check what works with a compressed model: ``python -m benchmarks.compatibility``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from typing import Any

from benchmarks.compatibility import (
    adapter_checks,
    distributed_checks,
    lightning_checks,
    optimizer_checks,
    peft_checks,
    preference_checks,
    torch_checks,
    trainer_checks,
)
from benchmarks.compatibility.check import CHECKS, PlainFailsError, run
from benchmarks.compatibility.report import CLIENTS, FILE, PAGE, write_page
from benchmarks.machine import describe
from benchmarks.results import write_json

GROUPS = (
    torch_checks,
    distributed_checks,
    optimizer_checks,
    peft_checks,
    adapter_checks,
    preference_checks,
    trainer_checks,
    lightning_checks,
)


def outcomes() -> list[dict[str, Any]]:
    """Run all checks, and return one row for each operation that runs on the plain model."""
    rows = []
    for group, name in CHECKS:
        try:
            rows.append({"group": group, "name": name, **asdict(run(group, name))})
        except PlainFailsError:
            continue
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run all checks, and write the page."""
    argparse.ArgumentParser(prog="python -m benchmarks.compatibility", description=__doc__).parse_args(argv)
    machine = describe("cpu")
    machine["versions"] |= {name: version(name) for name in CLIENTS}
    write_json(FILE, {"machine": machine, "date": str(date.today()), "checks": outcomes()})
    write_page()
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
