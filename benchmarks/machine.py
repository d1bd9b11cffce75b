"""The machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe(device: str) -> dict[str, Any]:
    """Return the machine, the versions and the threads that a result belongs to."""
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("shapeshift", "torch", "timm", "transformers", "numpy")},
    }


def without_own_version(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine without the version of this library, for results that outlast a release."""
    others = {name: found for name, found in machine["versions"].items() if name != "shapeshift"}
    return {**machine, "versions": others}


def made_by(script: str, machine: Mapping[str, Any]) -> str:
    """Return the start of a caption: the command that measured, and the machine.

    Args:
        script: The module's name in this package.
        machine: The machine, as :func:`describe` returns it.
    """
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return (
        f"Made by `python -m benchmarks.{script}` on {machine['processor']}, {threads}, "
        f"torch {machine['versions']['torch']}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
