"""Measurements in a process of their own, and the memory of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def measured_alone(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run a module of this package in a process of its own, and return the JSON in its last line of output.

    Args:
        module: The module's name in this package.
        *arguments: Its arguments on the command line.
        environment: Variables that are set for the process, besides those of this one.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    finished = subprocess.run(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(finished.stdout.splitlines()[-1])


def reset_peak() -> None:
    """Let the peak of ``resident_bytes("VmHWM")`` start anew from what this process has; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_bytes(field: str = "VmRSS") -> int:
    """Return the resident set of this process in bytes, or with "VmHWM" the largest that it has had; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
