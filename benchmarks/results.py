"""The runs of a table on one data set and device, as they are kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.experiments.base import Metric
from benchmarks.markdown import write_json
from benchmarks.row import Row


@dataclass
class Results:
    """What was measured, and under which settings.

    Attributes:
        settings: what all runs have in common: data, device, recipe and default config; and the machine.
        rows: the settings of each row, by its key.
        runs: "parameters" and the metrics of each run, by "ROW/SEED".
    """

    settings: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def resume(cls, path: Path, settings: dict[str, Any], rows: Sequence[Row]) -> Results:
        """Return the runs in a file that were made as they would be made now; none if there is no file.

        Args:
            path: of the file.
            settings: what all runs have in common.
            rows: of the table.
        """
        results = cls(settings, {row.key: row.settings for row in rows})
        if path.exists():
            kept = cls.read(path)
            if comparable(kept.settings, settings):
                results.runs = {
                    key: run
                    for key, run in kept.runs.items()
                    if (row := key.rpartition("/")[0]) in results.rows and kept.rows[row] == results.rows[row]
                }
        return results

    def borrow(self, path: Path, rows: Sequence[Row], own: Sequence[Row]) -> None:
        """Take over the runs of another table that would be the same here.

        Args:
            path: the other table's file.
            rows: the other table's.
            own: this one's.
        """
        kept = Results.read(path)
        if not comparable(kept.settings, self.settings):
            return
        theirs = {row.identity: row for row in rows if kept.rows.get(row.key) == row.settings}
        for row in own:
            if row.identity in theirs:
                for key, run in kept.runs.items():
                    name, _, seed = key.rpartition("/")
                    if name == theirs[row.identity].key:
                        self.runs.setdefault(f"{row.key}/{seed}", run)

    def drop(self, patterns: Sequence[str]) -> None:
        """Forget the runs of the rows that one of some shell patterns fits."""
        dropped = {row for row in self.rows for pattern in patterns if fnmatchcase(row, pattern)}
        self.runs = {key: run for key, run in self.runs.items() if key.rpartition("/")[0] not in dropped}

    def write(self, path: Path) -> None:
        """Write everything as JSON, the runs in order."""
        write_json(path, {**asdict(self), "runs": dict(sorted(self.runs.items()))})

    def has(self, row: str) -> bool:
        """Tell whether a row has runs."""
        return bool(self.of(row))

    def values(self, row: str, metric: Metric) -> list[float]:
        """Return a metric of a row's runs."""
        return [run[metric.name] for run in self.of(row)]

    def parameters(self, row: str) -> int:
        """Return the number of trainable parameters of a row that has runs."""
        return int(self.of(row)[0]["parameters"])

    def of(self, row: str) -> list[dict[str, Any]]:
        """Return a row's runs."""
        return [run for key, run in self.runs.items() if key.rpartition("/")[0] == row]


def comparable(kept: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Tell whether runs under two settings can stand in one table; they may come from two machines."""
    # A field that the config or the recipe did not have when the runs were made does by default what was done before.
    same = all(kept[part] == {name: settings[part].get(name) for name in kept[part]} for part in ("config", "recipe"))
    return same and all(kept[key] == settings[key] for key in ("data", "device"))
