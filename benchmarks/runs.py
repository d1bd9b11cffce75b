"""Single runs: one JSON file each, named by a hash of everything that determines the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# Fields that the config or a recipe gained after runs had been made, each with the value that does what was done
# before. A field with that value is left out of the hash, so that earlier runs keep their names.
ADDED_LATER: dict[str, dict[str, Any]] = {
    "config": {"recompute": False, "ring_block": 1024, "store": "float32", "store_noise": False, "rest": "float32"},
    "recipe": {"flip": False, "crop": 0, "milestones": [], "factor": 0.2, "bfloat16": False},
}


@dataclass(frozen=True)
class Run:
    """One training of one row with one seed.

    Attributes:
        settings: Everything that determines the run, except for the seed: :meth:`benchmarks.table.Table.settings`.
        seed: The seed of the network and of the order of the data.
        sizes: The sizes of the data, as the experiment describes them.
        machine: The machine and the versions that the run was made with.
        values: The number of "parameters" and each metric.
    """

    settings: dict[str, Any]
    seed: int
    sizes: dict[str, Any]
    machine: dict[str, Any]
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the run's file."""
        return run_name(self.settings, self.seed)

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write the run into a folder as JSON, one field a line."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(field.name)}: {json.dumps(getattr(self, field.name))}" for field in fields(self)]
        (folder / f"{self.name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def run_name(settings: Mapping[str, Any], seed: int) -> str:
    """Return the name of a run: 16 hexadecimal digits of the SHA-256 of its settings and seed."""
    hashed = {**without_later_fields(settings), "seed": seed}
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def without_later_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they were before the fields of ``ADDED_LATER`` existed, where these do what was done then."""
    return {**settings, **{part: _without(settings[part], added) for part, added in ADDED_LATER.items()}}


def _without(settings: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the fields that have these values, in settings that are part of others too."""
    return {
        name: _without(value, added) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in added or value != added[name]
    }


class RunStore:
    """The runs in a folder.

    Args:
        folder: The folder with the files. It is made when the first run is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = {path.stem: Run.read(path) for path in sorted(folder.glob("*.json"))}
        self._seeds = {run.seed for run in self.runs.values()}

    def find(self, settings: Mapping[str, Any]) -> list[Run]:
        """Return the runs of all seeds under the given settings, in the order of the seeds."""
        names = [run_name(settings, seed) for seed in sorted(self._seeds)]
        return [self.runs[name] for name in names if name in self.runs]

    def add(self, run: Run) -> None:
        """Keep a run. It replaces the one of the same name."""
        run.write(self.folder)
        self.runs[run.name] = run
        self._seeds.add(run.seed)

    def remove(self, name: str) -> None:
        """Delete a run and its file."""
        del self.runs[name]
        (self.folder / f"{name}.json").unlink()
